// Drives browsers, and nothing else: it starts Chromium, opens pages, clicks, and
// waits for alerts and states.
package e2e

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"iter"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// launch starts a Chromium that trusts the tests' certificate, with more flags.
func launch(flags ...chromedp.ExecAllocatorOption) (ctx context.Context, stop func(), err error) {
	certificate, err := pushertest.Certificate()
	if err != nil {
		return nil, nil, err
	}
	pin := sha256.Sum256(certificate.Leaf.RawSubjectPublicKeyInfo)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(pin[:])))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium refuses to run as root with it
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(options, flags...)...)
	ctx, _ = chromedp.NewContext(allocator)
	return ctx, func() { chromedp.Cancel(ctx); end() }, chromedp.Do(ctx)
}

// Chromium, started once for most tests, and what ends it.
var (
	closeBrowser func()
	openBrowser  = sync.OnceValues(func() (ctx context.Context, err error) {
		ctx, closeBrowser, err = launch()
		return ctx, err
	})
)

// browser returns the common Chromium.
func browser(t testing.TB) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs a browser; -short leaves it out")
	}
	ctx, err := openBrowser()
	if err != nil {
		skip(t, chromium, err)
	}
	return ctx
}

// The first test that needs a page tries the essential path. If the page is broken,
// that test fails, and all others are skipped instead of timing out in turn.
var (
	tryPage    sync.Once
	brokenPage string // what failed; empty if the page works
)

func requirePage(t testing.TB) {
	t.Helper()
	root := browser(t)
	tryPage.Do(func() {
		t.Log("first, the essential path: a page of each client, a click, an alert in each")
		brokenPage = "see the first browser test"
		app := start(t)
		var tabs []*tab
		if _, err := npm(); err == nil {
			tabs = append(tabs, newTabIn(t, root, served))
		}
		tabs = append(tabs, newTabIn(t, root, blocked))
		defer func() {
			for _, p := range tabs {
				brokenPage = cmp.Or(p.failure, brokenPage)
			}
		}()
		for _, p := range tabs {
			p.open(app.url, "connected")
		}
		tabs[0].click()
		for _, p := range tabs {
			p.wantAlert()
		}
		brokenPage = ""
	})
	if brokenPage != "" {
		t.Skip("the page is broken: ", brokenPage)
	}
}

// cdn is how the CDN of pusher-js responds in a tab.
type cdn int

const (
	served  cdn = iota // with the real pusher-js, from npm
	blocked            // with an error at once
	silent             // never
)

func (c cdn) String() string {
	return [...]string{"with pusher-js", "CDN blocked", "CDN silent"}[c]
}

// bothClients are the shortest ways to the page's two Channels clients.
var bothClients = []cdn{served, blocked}

// The page's names for the two, in data-client.
const (
	pusherJS = "pusher-js"
	fallback = "fallback"
)

// tab is one open page, with cookies, cache and storage of its own.
type tab struct {
	t       testing.TB
	ctx     context.Context
	alerts  chan string // that were shown, and closed at once
	client  string      // the Channels client that the page is to use
	failure string      // the first line of what failed the test

	keepOpen sync.Mutex // held by a test to keep alerts open

	mu      sync.Mutex
	console []string // exceptions, console lines, failed requests, policy violations
	thrown  string   // the first uncaught exception
	refused string   // the first request of the page's own that failed
}

// newTab opens an empty tab in the common browser.
func newTab(t testing.TB, library cdn) *tab {
	t.Helper()
	requirePage(t)
	return newTabIn(t, browser(t), library)
}

// newTabIn opens an empty tab in a browser.
func newTabIn(t testing.TB, browser context.Context, library cdn) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx, alerts: make(chan string, 100), client: fallback}
	var script []byte
	if library == served {
		p.client = pusherJS
		script = npmFile(t, "pusher-js/dist/web/pusher.min.js")
	}
	p.do(chromedp.Navigate("about:blank"))
	t.Cleanup(func() {
		if p.threw() != "" && !t.Failed() {
			t.Errorf("the page threw an exception\n%s", p.report())
		}
	})
	go p.watch(chromedp.Console(ctx))
	dialogs, requests := chromedp.Events(ctx, page.JavascriptDialogOpening), chromedp.Events(ctx, fetch.RequestPaused)
	go func() {
		for dialog, err := range dialogs {
			if err != nil {
				return
			}
			p.alerts <- dialog.Message
			p.keepOpen.Lock()
			chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
			p.keepOpen.Unlock()
		}
	}()
	go func() {
		for request, err := range requests {
			switch {
			case err != nil:
				return
			case library == served:
				chromedp.Call(ctx, fetch.FulfillRequest, fetch.FulfillRequestParams{
					RequestID: request.RequestID, ResponseCode: http.StatusOK, Body: script,
					ResponseHeaders: []*fetch.HeaderEntry{
						{Name: "Content-Type", Value: "text/javascript"}, {Name: "Access-Control-Allow-Origin", Value: "*"},
					}})
			case library == blocked:
				chromedp.Call(ctx, fetch.FailRequest, fetch.FailRequestParams{
					RequestID: request.RequestID, ErrorReason: network.ErrorReasonConnectionRefused})
			}
		}
	}()
	if _, err := chromedp.Call(ctx, fetch.Enable, fetch.EnableParams{
		Patterns: []*fetch.RequestPattern{{URLPattern: "https://js.pusher.com/*"}}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// watch keeps what the page logs and what the browser logs about it.
func (p *tab) watch(messages iter.Seq2[chromedp.ConsoleMessage, error]) {
	for m, err := range messages {
		if err != nil {
			return
		}
		line := fmt.Sprintf("%s: %s", m.Type, strings.TrimSpace(m.Text))
		if m.URL != "" {
			line += fmt.Sprintf(" (%s, line %d)", m.URL, m.Line+1)
		}
		p.mu.Lock()
		p.console = append(p.console, line)
		if m.IsException() {
			p.thrown = cmp.Or(p.thrown, line)
		}
		if m.Source != "" && m.Type == chromedp.ConsoleError && !strings.Contains(line, "https://js.pusher.com/") {
			p.refused = cmp.Or(p.refused, line)
		}
		p.mu.Unlock()
	}
}

// threw returns the page's first uncaught exception, or "".
func (p *tab) threw() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.thrown
}

// didNotLoad returns the first exception, or the first file of the page that could not
// be loaded.
func (p *tab) didNotLoad() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cmp.Or(p.thrown, p.refused)
}

// report says where the page is, what it shows and what it logged.
func (p *tab) report() string {
	ctx, cancel := context.WithTimeout(p.ctx, 2*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](
		"location.href + ' ' + JSON.stringify(document.body?.dataset) + '\\n' + document.body?.innerText"))
	if err != nil {
		text = "does not respond: " + err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	indent := func(s string) string { return "\n  " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ") }
	return "The page:" + indent(text) + "\nIts console:" + indent(strings.Join(p.console, "\n"))
}

// fatal fails the test with the state of the page.
func (p *tab) fatal(format string, args ...any) {
	p.t.Helper()
	p.failure = fmt.Sprintf(format, args...)
	p.t.Fatalf("%s\n%s", p.failure, p.report())
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.fatal("%v", err)
	}
}

// open opens a page and waits until it is in a state, with the client.
func (p *tab) open(url, state string) {
	p.t.Helper()
	// Not chromedp.Navigate, which waits for everything to load: a silent CDN never does.
	if _, err := chromedp.Call(p.ctx, page.Navigate, page.NavigateParams{URL: url}); err != nil {
		p.fatal("%v", err)
	}
	p.awaitOr(p.didNotLoad, "document.body?.dataset.state !== undefined")
	p.await(fmt.Sprintf("document.body.dataset.client === %q", p.client))
	p.awaitState(state)
}

// await waits until an expression is true in the page. It ends if the page throws an
// exception that nothing catches.
func (p *tab) await(expression string) {
	p.t.Helper()
	p.awaitOr(p.threw, expression)
}

func (p *tab) awaitOr(problem func() string, expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, pushertest.Timeout)
	defer cancel()
	for {
		seen := problem() // before the expression, which may have become true since
		// Errors are expected while a page is replaced.
		if is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression)); err == nil && is {
			return
		}
		if seen != "" {
			p.fatal("%s", seen)
		}
		select {
		case <-ctx.Done():
			p.fatal("timed out waiting for %s", expression)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// awaitState waits until the page is in a state: connection.js lists them.
func (p *tab) awaitState(state string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.body?.dataset.state === %q", state))
}

// awaitProblem waits until the page shows text as the problem of the last click.
func (p *tab) awaitProblem(text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.getElementById('problem').textContent.includes(%q)", text))
}

// click clicks the button.
func (p *tab) click() {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('.push').click()"))
}

// wantAlert waits for one alert, which must show the message that the app sends.
func (p *tab) wantAlert() {
	p.t.Helper()
	for end := time.Now().Add(pushertest.Timeout); ; {
		select {
		case got := <-p.alerts:
			if want := sampleEvent(p.t).message; got != want {
				p.t.Errorf("alert %q, want %q", got, want)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
		if seen := p.threw(); seen != "" {
			p.fatal("%s", seen)
		}
		if time.Now().After(end) {
			p.fatal("timed out waiting for an alert")
		}
	}
}
