// Helpers that drive a browser: they start Chromium, open pages, click, and wait for alerts and
// states.
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

// launch starts Chromium with additional flags. It trusts the tests' certificate.
func launch(flags ...chromedp.ExecAllocatorOption) (ctx context.Context, stop func(), err error) {
	certificate, err := pushertest.Certificate()
	if err != nil {
		return nil, nil, err
	}
	pin := sha256.Sum256(certificate.Leaf.RawSubjectPublicKeyInfo)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(pin[:])))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium refuses to run as root with the sandbox
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(options, flags...)...)
	ctx, _ = chromedp.NewContext(allocator)
	return ctx, func() { chromedp.Cancel(ctx); end() }, chromedp.Do(ctx)
}

// openBrowser starts Chromium once, for most tests; closeBrowser ends it.
var (
	closeBrowser func()
	openBrowser  = sync.OnceValues(func() (ctx context.Context, err error) {
		ctx, closeBrowser, err = launch()
		return ctx, err
	})
)

// browser returns the shared Chromium.
func browser(t testing.TB) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a browser; skipped with -short")
	}
	ctx, err := openBrowser()
	if err != nil {
		skip(t, chromium, err)
	}
	return ctx
}

var (
	tryPage    sync.Once
	brokenPage string // what failed; empty if the page works
)

// requirePage checks, for the first test that calls it, that a click in one page alerts another. If it
// doesn't, that test fails, and all others are skipped instead of timing out one by one.
func requirePage(t testing.TB) {
	t.Helper()
	root := browser(t)
	tryPage.Do(func() {
		t.Log("checking the basics first: a page with each client, a click in each page, an alert in the other")
		brokenPage = "see the first browser test"
		app := start(t)
		library := served
		if _, err := npm(); err != nil {
			library = blocked
		}
		tabs := []*tab{newTabIn(t, root, library), newTabIn(t, root, blocked)}
		defer func() {
			for _, p := range tabs {
				brokenPage = cmp.Or(p.failure, brokenPage)
			}
		}()
		for _, p := range tabs {
			p.open(app.url, "connected")
		}
		for i, p := range tabs {
			p.click()
			tabs[1-i].wantAlert()
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
	served       cdn = iota // with the real pusher-js, from npm
	blocked                 // with an error, immediately
	unresponsive            // never
)

func (c cdn) String() string {
	return [...]string{"with pusher-js", "CDN blocked", "CDN unresponsive"}[c]
}

// bothClients makes the page use each of its two Channels clients, without a delay.
var bothClients = []cdn{served, blocked}

// Values of the page's data-client.
const (
	pusherJS = "pusher-js"
	fallback = "fallback"
)

// tab is one open page, with its own cookies, cache and storage.
type tab struct {
	t       testing.TB
	ctx     context.Context
	alerts  chan string // messages of the alerts shown; each is closed immediately
	client  string      // the Channels client that the page must use
	failure string      // the first line of the test's failure

	keepOpen sync.Mutex // held by a test to keep alerts open

	mu      sync.Mutex
	console []string // exceptions, console lines, failed requests, policy violations
	thrown  string   // the first uncaught exception
	failed  string   // the first failed request to the page's own server
}

// newTab opens an empty tab in the shared browser.
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

// watch records what the page logs, and what the browser logs about the page.
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
			p.failed = cmp.Or(p.failed, line)
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
	return cmp.Or(p.thrown, p.failed)
}

// report returns the page's address, its text and its console.
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

// do runs steps in the tab.
func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.fatal("%v", err)
	}
}

// open opens a page and waits until it uses p.client and is in the given state.
func (p *tab) open(url, state string) {
	p.t.Helper()
	// Not chromedp.Navigate, which waits for all resources: an unresponsive CDN sends nothing.
	if _, err := chromedp.Call(p.ctx, page.Navigate, page.NavigateParams{URL: url}); err != nil {
		p.fatal("%v", err)
	}
	p.awaitOr(p.didNotLoad, "document.body?.dataset.state !== undefined")
	p.await(fmt.Sprintf("document.body.dataset.client === %q", p.client))
	p.awaitState(state)
}

// await waits until a JavaScript expression is true in the page. It fails if the page throws
// an uncaught exception.
func (p *tab) await(expression string) {
	p.t.Helper()
	p.awaitOr(p.threw, expression)
}

// awaitOr is like await, but fails if problem returns text.
func (p *tab) awaitOr(problem func() string, expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, pushertest.Timeout)
	defer cancel()
	for {
		seen := problem() // first, so that a problem counts only if the expression is still false
		// Errors are expected while the tab loads another page.
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

// awaitState waits until the page is in the given state. connection.js lists the states.
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
