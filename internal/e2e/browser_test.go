// Drives browsers, and nothing else: it starts Chromium, opens pages, clicks, and
// waits for alerts and states.
package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// startBrowser starts a Chromium that trusts the tests' certificate, with more flags.
func startBrowser(flags ...chromedp.ExecAllocatorOption) (ctx context.Context, stop func(), err error) {
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

// The browser, started once for most tests, and what ends it.
var (
	closeBrowser func()
	browser      = sync.OnceValues(func() (ctx context.Context, err error) {
		ctx, closeBrowser, err = startBrowser()
		return ctx, err
	})
)

const crash = "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!"

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
	fallback = "stand-in"
)

// tab is one open page, with cookies, cache and storage of its own.
type tab struct {
	t      testing.TB
	ctx    context.Context
	alerts chan string // that were shown, and closed at once
	client string      // the Channels client that the page is to use
}

// newTab opens an empty tab in the common browser.
func newTab(t testing.TB, library cdn) *tab {
	t.Helper()
	root, err := browser()
	if err != nil {
		missing(t, "Chromium does not start: "+err.Error())
	}
	return newTabIn(t, root, library)
}

// newTabIn opens an empty tab in a browser of the test's own.
func newTabIn(t testing.TB, browser context.Context, library cdn) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &tab{t, ctx, make(chan string, 100), fallback}
	var script []byte
	if library == served {
		p.client = pusherJS
		script = npmFile(t, "pusher-js/dist/web/pusher.min.js")
	}
	p.do(chromedp.Navigate("about:blank"))
	dialogs, requests := chromedp.Events(ctx, page.JavascriptDialogOpening), chromedp.Events(ctx, fetch.RequestPaused)
	go func() {
		for dialog, err := range dialogs {
			if err != nil {
				return
			}
			p.alerts <- dialog.Message
			chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
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

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// open opens a page and waits until it is in a state, with the client.
func (p *tab) open(url, state string) {
	p.t.Helper()
	// Not chromedp.Navigate, which waits for everything to load: a silent CDN never does.
	if _, err := chromedp.Call(p.ctx, page.Navigate, page.NavigateParams{URL: url}); err != nil {
		p.t.Fatal(err)
	}
	p.await(fmt.Sprintf("document.body?.dataset.client === %q", p.client))
	p.awaitState(state)
}

// await waits until an expression is true in the page.
func (p *tab) await(expression string) {
	p.t.Helper()
	for end := time.Now().Add(pushertest.Timeout); ; time.Sleep(10 * time.Millisecond) {
		// Errors are expected while a page is replaced.
		if is, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](expression)); err == nil && is {
			return
		}
		if time.Now().After(end) {
			text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body.innerText + JSON.stringify(document.body.dataset)"))
			p.t.Fatalf("timed out waiting for %s\nthe page: %s", expression, text)
		}
	}
}

// awaitState waits until the page is in a state: app.js lists them.
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
	p.do(chromedp.Evaluate[chromedp.Void]("document.getElementById('push').click()"))
}

// wantAlert waits for one alert, which must show the crash.
func (p *tab) wantAlert() {
	p.t.Helper()
	select {
	case got := <-p.alerts:
		if got != crash {
			p.t.Errorf("alert %q, want %q", got, crash)
		}
	case <-time.After(pushertest.Timeout):
		p.t.Fatal("timed out waiting for an alert")
	}
}
