// Drives a browser: starts Chromium, opens pages, clicks, and waits for alerts and states.
package e2e

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// Debian's chromium-headless-shell needs a fifth of the CPU time of Chromium, but it can't hide a tab. Its script in
// /usr/bin would keep a killed run from ending the browser.
const headlessShell = "/usr/lib/chromium/chromium-headless-shell"

// browsers is the parent of all browsers' contexts.
var browsers, stopBrowsers = context.WithCancel(context.Background())

// launch starts Chromium with an additional flag. It trusts the tests' certificate.
func launch(flag chromedp.ExecAllocatorOption) (context.Context, error) {
	pin := sha256.Sum256(pushertest.Certificate().Leaf.RawSubjectPublicKeyInfo)
	options := append(chromedp.DefaultExecAllocatorOptions[:], flag,
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(pin[:])))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium refuses to run as root with the sandbox
	}
	allocator, _ := chromedp.NewExecAllocator(browsers, options...)
	ctx, _ := chromedp.NewContext(allocator)
	return ctx, chromedp.Do(ctx)
}

// A browser for most tests, and one that can hide tabs.
var (
	shared = sync.OnceValues(func() (context.Context, error) { return launch(light) })
	hiding = sync.OnceValues(func() (context.Context, error) { return launch(throttled) })
)

// light makes launch start the headless shell if it is installed.
func light(a *chromedp.ExecAllocator) {
	if _, err := exec.LookPath(headlessShell); err == nil {
		chromedp.ExecPath(headlessShell)(a)
	}
}

// throttled makes launch slow down timers in hidden tabs, as browsers do.
func throttled(a *chromedp.ExecAllocator) {
	chromedp.Flag("disable-background-timer-throttling", false)(a)
	chromedp.Flag("disable-renderer-backgrounding", false)(a)
}

// cdn is how the CDN of pusher-js responds in a tab.
type cdn string

const (
	served       cdn = "pusher-js" // the real one, from npm
	tampered     cdn = "changed pusher-js"
	blocked      cdn = "fallback" // because of an error
	unresponsive cdn = "unresponsive CDN"
)

// eachClient runs a subtest with each of the page's two Channels clients, in parallel.
func eachClient(t *testing.T, test func(t *testing.T, cdn cdn)) {
	t.Parallel()
	for _, cdn := range []cdn{served, blocked} {
		t.Run(string(cdn), func(t *testing.T) {
			t.Parallel()
			test(t, cdn)
		})
	}
}

// tab is one open page, with its own cookies, cache and storage.
type tab struct {
	t      testing.TB
	ctx    context.Context
	client string      // that the page uses: pusher-js or fallback
	alerts chan string // messages of the alerts shown; each is closed immediately
	wanted int         // how many alerts the test has waited for since open

	keepOpen sync.Mutex // held by a test to keep alerts open

	mu      sync.Mutex
	console []string // exceptions, console lines, failed requests, policy violations
	problem string   // the first uncaught exception, or file of the page that could not be loaded
}

// newTab opens an empty tab.
func newTab(t testing.TB, library cdn) *tab { t.Helper(); return newTabIn(t, shared, library) }

// newTabIn is like newTab, in the browser that launch returns.
func newTabIn(t testing.TB, launch func() (context.Context, error), library cdn) *tab {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a browser; skipped with -short")
	}
	browser, err := launch()
	if err != nil {
		skip(t, "Chromium (Debian package chromium)", err)
	}
	body, client := "tampered", "fallback"
	if library == served {
		body, client = npmFile(t, "pusher-js/dist/web/pusher.min.js"), "pusher-js"
	}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	p := &tab{t: t, ctx: ctx, client: client, alerts: make(chan string, 100)}
	t.Cleanup(func() {
		p.check()
		cancel()
	})
	if err := chromedp.Do(ctx); err != nil { // not perform, because the tab ends with the context of the first call
		t.Fatal(err)
	}
	go p.watch()
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
			case library == blocked:
				chromedp.Call(ctx, fetch.FailRequest, fetch.FailRequestParams{
					RequestID: request.RequestID, ErrorReason: network.ErrorReasonConnectionRefused})
			case library != unresponsive:
				chromedp.Call(ctx, fetch.FulfillRequest, fetch.FulfillRequestParams{
					RequestID: request.RequestID, ResponseCode: http.StatusOK, Body: []byte(body),
					ResponseHeaders: []*fetch.HeaderEntry{
						{Name: "Content-Type", Value: "text/javascript"}, {Name: "Access-Control-Allow-Origin", Value: "*"},
					}})
			}
		}
	}()
	call(p, fetch.Enable, fetch.EnableParams{Patterns: []*fetch.RequestPattern{{URLPattern: "https://js.pusher.com/*"}}})
	return p
}

// openPage opens a page in a new tab and waits until it is connected.
func openPage(t testing.TB, library cdn, url string) *tab {
	t.Helper()
	p := newTab(t, library)
	if library == unresponsive {
		p.shorten(map[int]int{load: 500})
	}
	return p.open(url, "connected")
}

// check checks, at the end of a test, that the page has thrown no exception, that each event that it counts had an
// alert unless too many arrived at once, and that the test has waited for all of these alerts.
func (p *tab) check() {
	if p.t.Failed() || p.t.Skipped() {
		return
	}
	events, skipped := p.events()
	if shown := p.wanted + len(p.alerts); shown != p.wanted || shown != events-skipped {
		p.t.Errorf("%d events, of which %d had no alert: %d alerts, want %d", events, skipped, shown, p.wanted)
	}
	if p.failed() != "" {
		p.t.Error(p.report())
	}
}

// events returns how many events the page has counted, and how many of them had no alert.
func (p *tab) events() (events, skipped int) {
	p.t.Helper()
	counts := evaluate[[]int](p, `[/Crashes: (\d+)/, /(\d+) had no alert/].map((pattern) =>
		Number(document.getElementById('trace')?.textContent.match(pattern)?.[1] ?? 0))`)
	return counts[0], counts[1]
}

// watch records what the page logs, and what the browser logs about the page.
func (p *tab) watch() {
	for m, err := range chromedp.Console(p.ctx) {
		if err != nil {
			return
		}
		line := fmt.Sprintf("%s: %s (%s, line %d)", m.Type, strings.TrimSpace(m.Text), m.URL, m.Line+1)
		p.mu.Lock()
		p.console = append(p.console, line)
		if m.IsException() || strings.HasPrefix(m.Text, "Failed to load") && strings.Contains(m.URL, "/static/") {
			p.problem = cmp.Or(p.problem, line)
		}
		p.mu.Unlock()
	}
}

// failed returns the page's first problem, or "".
func (p *tab) failed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
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
	return "The page: " + text + "\nIts console:\n  " + strings.Join(p.console, "\n  ")
}

// fatal fails the test with the state of the page.
func (p *tab) fatal(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), p.report())
}

// perform returns the result of an action in the tab.
func perform[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, pushertest.Timeout)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		p.fatal("%v", err)
	}
	return result
}

// call calls a command of the DevTools protocol.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) {
	p.t.Helper()
	perform(p, func(ctx context.Context, _ *chromedp.Target) (R, error) { return chromedp.Call(ctx, command, params) })
}

// js runs a script in the page.
func (p *tab) js(script string) {
	p.t.Helper()
	perform(p, chromedp.Evaluate[chromedp.Void](script+"\n;undefined"))
}

// evaluate returns the value of an expression in the page, or what a promise resolves to.
func evaluate[T any](p *tab, expression string) T {
	p.t.Helper()
	return perform(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// beforeLoad makes pages run a script before their own. It must not throw in about:blank.
func (p *tab) beforeLoad(script string) *tab {
	p.t.Helper()
	call(p, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
	return p
}

// edit changes the document after it was parsed, before the page's scripts run.
func (p *tab) edit(script string) *tab {
	p.t.Helper()
	return p.beforeLoad("document.addEventListener('readystatechange', () => { " + script + " }, { once: true });")
}

// The page's timers, in milliseconds.
const (
	activity  = 15_000 // idle time before a ping
	pong      = 12_000
	load      = 3_000 // of pusher-js
	attempt   = 3_000 // to connect
	eventPart = 750   // an eighth of the wait for a click's event
	request   = 15_000
	never     = 1_000_000
)

// shorten changes how long the page's timers take, from and to a number of milliseconds. For the page, time passes ten
// times as fast, and nothing is random. The test fails if the page doesn't use one of the timers.
func (p *tab) shorten(times map[int]int) *tab {
	p.t.Helper()
	list, _ := json.Marshal(times)
	p.beforeLoad(fmt.Sprintf(`{
		const times = %s, now = performance.now.bind(performance), later = setTimeout, limit = AbortSignal.timeout;
		const short = (ms) => { window.used.add(ms); return times[ms] ?? ms; };
		window.used = new Set();
		window.setTimeout = (f, ms, ...args) => later(f, short(ms), ...args);
		AbortSignal.timeout = (ms) => limit.call(AbortSignal, short(ms));
		performance.now = () => 10 * now();
		Math.random = () => 0;
	}`, list))
	p.t.Cleanup(func() {
		if p.t.Failed() || p.t.Skipped() {
			return
		}
		for ms := range times {
			if !evaluate[bool](p, fmt.Sprintf("used.has(%d)", ms)) {
				p.t.Errorf("the page has no timer of %d ms", ms)
			}
		}
	})
	return p
}

// prefer sets a media feature, such as the preferred color scheme.
func (p *tab) prefer(feature, value string) *tab {
	p.t.Helper()
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: feature, Value: value}}})
	return p
}

// navigate opens a page, without waiting for all resources, because an unresponsive CDN sends nothing.
func (p *tab) navigate(url string) {
	p.t.Helper()
	p.wanted = 0
	call(p, page.Navigate, page.NavigateParams{URL: url})
}

// open opens a page and waits until it is in the given state.
func (p *tab) open(url, state string) *tab {
	p.t.Helper()
	p.navigate(url)
	p.awaitState(state)
	if client := evaluate[string](p, "document.body.dataset.client ?? ''"); state == "connected" && client != p.client {
		p.fatal("the page uses %q, want %s", client, p.client)
	}
	return p
}

// await waits until a JavaScript expression is true in the page. It fails if the page throws an uncaught exception.
func (p *tab) await(expression string) {
	p.t.Helper()
	p.waitFor(expression, func() bool {
		ctx, cancel := context.WithTimeout(p.ctx, pushertest.Timeout)
		defer cancel()
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](expression))
		return err == nil && is // errors are expected while the tab loads another page
	})
}

// waitFor waits until done returns true. It fails if the page throws an uncaught exception.
func (p *tab) waitFor(what string, done func() bool) {
	p.t.Helper()
	for end := time.Now().Add(pushertest.Timeout); ; time.Sleep(10 * time.Millisecond) {
		problem := p.failed() // first, so that a problem counts only if it isn't done
		switch {
		case done():
			return
		case problem != "":
			p.fatal("waiting for %s: %s", what, problem)
		case time.Now().After(end):
			p.fatal("timed out waiting for %s", what)
		}
	}
}

// awaitState waits until the page is in the given state. connection.js lists the states.
func (p *tab) awaitState(state string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.body?.dataset.state === %q", state))
}

// awaitText waits until the element with this ID contains text.
func (p *tab) awaitText(id, text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.getElementById(%q)?.textContent.includes(%q)", id, text))
}

// click clicks the button.
func (p *tab) click() {
	p.t.Helper()
	p.js("document.querySelector('.push').click()")
}

// wantAlert waits for one alert, which must show the message that the app sends, or another one if given.
func (p *tab) wantAlert(other ...string) {
	p.t.Helper()
	p.waitFor("an alert", func() bool { return len(p.alerts) > 0 })
	p.wanted++
	if got, want := <-p.alerts, append(other, message)[0]; got != want {
		p.t.Errorf("alert %q, want %q", got, want)
	}
}

// wantAlerts clicks in each page, and waits for an alert in all of them.
func wantAlerts(pages ...*tab) {
	pages[0].t.Helper()
	for _, clicked := range pages {
		clicked.click()
		for _, p := range pages {
			p.wantAlert()
		}
	}
}
