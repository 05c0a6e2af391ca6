// Tests when and how often the page alerts, and what it says about a click that failed. At its end, each test checks
// that every event was alerted exactly once; see tab.check.
package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/pusher/pusher-http-go/v5"
)

// Each click in one of two tabs shows one alert in each of them.
func TestBothTabsAlert(t *testing.T) {
	t.Parallel()
	for _, cdn := range []cdn{served, blocked, unresponsive} {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			app := start(t, "RATE_LIMIT=0")
			one := openPage(t, cdn, app.url)
			two := openPage(t, cdn, app.url)
			wantAlerts(one, two)
		})
	}
}

// The browser does not run a pusher-js that was changed, so the page uses the fallback.
func TestTamperedLibraryIsNotRun(t *testing.T) {
	t.Parallel()
	openPage(t, tampered, start(t).url)
}

// The button works with the keyboard alone.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	p := openPage(t, blocked, start(t).url)
	for range 10 { // there may be other elements before the button
		p.do(chromedp.KeyEvent("\t"))
		if evaluate[bool](p, "document.activeElement.matches('.push')") {
			break
		}
	}
	for _, key := range []string{"\r", " "} {
		p.await("document.activeElement.matches('.push:focus-visible')")
		p.do(chromedp.KeyEvent(key))
		p.wantAlert()
	}
}

// The page passes axe-core's rules in both color schemes, when connected and when refused.
func TestAccessibility(t *testing.T) {
	t.Parallel()
	axe := npmFile(t, "axe-core/axe.min.js")
	upstream := pushertest.NewServer(t)
	working := start(t, "DYNO=web.1")
	refused := start(t, "PUSHER_URL="+strings.Replace(upstream.PusherURL, "testkey", "otherkey", 1))
	for _, scheme := range []string{"light", "dark"} {
		p := newTab(t, blocked)
		p.prefer("prefers-color-scheme", scheme)
		check := func() {
			t.Helper()
			p.js(axe)
			found := evaluate[string](p, `axe.run().then((r) => r.passes.length < 10 ? 'too few rules were checked' :
				r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary)).join('\n'))`)
			if found != "" {
				t.Errorf("%s: %s", scheme, found)
			}
		}
		p.open(working.url, "connected")
		p.click()
		p.wantAlert()
		p.awaitRest()
		check()
		p.open(refused.url, "refused")
		p.click() // fails
		p.await("document.getElementById('problem').textContent !== ''")
		check()
	}
}

// awaitRest waits until all kaomoji are back on their buttons, or fly back.
func (p *tab) awaitRest() {
	p.t.Helper()
	p.await("!document.querySelector('[data-phase]')")
}

// The alert follows the click within 200 ms, after a crash that is visible for at least one frame, also with reduced
// motion. It stays visible for about a second.
func TestCrash(t *testing.T) {
	t.Parallel()
	app := start(t, "RATE_LIMIT=0")
	for _, motion := range []string{"no-preference", "reduce"} {
		t.Run(motion, func(t *testing.T) {
			p := newTab(t, blocked)
			p.prefer("prefers-reduced-motion", motion)
			p.open(app.url, "connected")
			p.js(`const button = document.querySelector('.push');
				const kaomoji = getComputedStyle(button.querySelector('span'), '::before');
				const visible = () => button.dataset.phase === 'hit' && kaomoji.visibility === 'visible';
				window.crash = () => new Promise((resolve) => {
					const clicked = performance.now();
					let before = 0, alerted;
					window.alert = () => { alerted = performance.now(); };
					const look = () => {
						if (visible() && !alerted) before++;
						if (!visible() && alerted) return resolve([alerted - clicked, before, performance.now() - alerted]);
						requestAnimationFrame(look);
					};
					button.click();
					look();
				})`)
			var took []float64
			for range 10 { // a busy machine may delay some alerts, but not ten
				took = evaluate[[]float64](p, "crash()")
				p.wanted++ // shown by the function above
				if took[0] <= 200 && took[1] >= 1 && took[2] >= 800 {
					return
				}
			}
			t.Errorf("alerted after %.0f ms and %.0f frames, visible for %.0f ms more", took[0], took[1], took[2])
		})
	}
}

// A hidden page alerts immediately, without timers, which browsers slow down in hidden pages. When it is shown again,
// it checks its connection.
func TestHiddenPage(t *testing.T) {
	t.Parallel()
	app := start(t, "RATE_LIMIT=0")
	for _, cdn := range []cdn{served, blocked} {
		t.Run(cdn.String(), func(t *testing.T) {
			w := newWire(t, app.address())
			p := newTabIn(t, hiding, cdn)
			p.shorten(map[int]int{activity: never, pong: 300})
			p.open(w.url, "connected")
			p.recordStates()
			front, cancel := chromedp.NewContext(p.ctx, chromedp.WithNewWindow(false))
			defer cancel()
			if err := chromedp.Do(front, chromedp.Navigate("about:blank")); err != nil {
				t.Fatal(err)
			}
			p.await("document.hidden")
			began := time.Now()
			for range 5 {
				app.click()
				p.wantAlert()
			}
			if took := time.Since(began); took > 4*time.Second { // with timers, each alert would take a second or more
				t.Errorf("5 alerts took %v", took)
			}
			w.silence()
			call(p, page.BringToFront, cdp.Empty{})
			p.awaitReconnect()
		})
	}
}

// While an alert is open, up to ten more wait; the page only counts the rest. It ignores events without a message.
func TestEventsDuringAlert(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t, "RATE_LIMIT=0")
		p := newTab(t, cdn)
		for try := 1; ; try++ {
			p.open(app.url, "connected")
			p.keepOpen.Lock()
			app.click()
			p.wantAlert()
			for range 50 {
				app.click()
			}
			p.keepOpen.Unlock()
			p.awaitText("trace", "Crashes: 51,")
			_, skipped := p.events()
			for range 50 - skipped {
				p.wantAlert()
			}
			if skipped == 40 {
				break
			}
			if try == 3 { // on a busy machine, some events arrive after the next alert
				t.Fatalf("%d of 50 events had no alert, want 40", skipped)
			}
		}
		for _, data := range []string{"", "null", "text", "[]", `{"message":1}`, `{"message":null}`, `{"message":["x"]}`} {
			trigger(t, upstream, sampleEvent(t).name, data)
		}
		app.click()
		p.wantAlert()
	})
}

// trigger triggers an event on the page's channel.
func trigger(t testing.TB, upstream *pushertest.Server, name, data string) {
	t.Helper()
	api := must(pusher.ClientFromURL(upstream.PusherURL))
	if err := api.Trigger(sampleEvent(t).channel, name, data); err != nil {
		t.Fatal(err)
	}
}

// The page reports a click that the server accepted, but whose event does not arrive: the second click's.
func TestClickWithoutEvent(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		var clicks atomic.Int32
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && clicks.Add(1) == 2 {
				io.WriteString(w, "{}")
				return
			}
			upstream.ServeHTTP(w, r)
		})
		p := newTab(t, cdn)
		p.shorten(map[int]int{eventPart: 100})
		p.edit(`const button = document.querySelector('.push'), second = button.cloneNode(true);
			second.dataset.event = 'second';
			button.after(second);`)
		p.open(app.url, "connected")
		for range 3 {
			p.click()
		}
		p.wantAlert()
		p.wantAlert()
		const reported = "document.getElementById('problem').textContent.includes('the event has not reached this page')"
		for !evaluate[bool](p, reported) { // another button's alerts don't delay the report
			if clicks.Load() > 50 {
				p.fatal("no report, but alerts all the time")
			}
			trigger(t, upstream, "second", fmt.Sprintf(`{"message":%q}`, sampleEvent(t).message))
			p.wantAlert()
		}
		p.awaitRest()
	})
}

// If the page was not connected when the server accepted a click, it says so, and doesn't blame the settings.
func TestClickWhileNotConnected(t *testing.T) {
	const notConnected = "The server accepted the click while this page was not connected"
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream := pushertest.NewServer(t)
		w := newWire(t, upstream.HTTP.Listener.Addr().String())
		app := start(t, "PUSHER_URL="+upstream.PusherURL, "PUSHER_SOCKET_URL="+strings.Replace(w.url, "http", "ws", 1))
		p := openPage(t, cdn, app.url)
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				upstream.ServeHTTP(w, r)
			}
		})
		w.cut()
		p.awaitState("lost")
		p.click()
		pushertest.WaitFor(t, "the event of the click", func() bool { return len(upstream.Events()) == 1 })
		upstream.Override(nil)
		p.awaitState("connected")
		p.awaitText("problem", notConnected)
	})
	t.Run("before the client has loaded", func(t *testing.T) {
		app := start(t)
		p := newTab(t, unresponsive)
		p.shorten(map[int]int{load: 1000, eventPart: 200})
		p.navigate(app.url)
		p.awaitState("connecting")
		p.click()
		p.await("!!document.querySelector('.push[data-phase=flying]')")
		if client := evaluate[string](p, "document.body.dataset.client ?? ''"); client != "" {
			t.Fatalf("the client %s had already loaded", client)
		}
		p.awaitText("problem", notConnected)
		p.awaitState("connected")
		p.click()
		p.wantAlert()
		p.await("document.getElementById('problem').textContent === ''")
	})
	t.Run("refused", func(t *testing.T) {
		_, app := startWithUpstream(t)
		p := newTab(t, served)
		p.edit("document.body.dataset.key = 'other'")
		p.open(app.url, "refused")
		p.click()
		p.awaitText("problem", "this page is not connected, so it can't show the alert. The status below says why.")
	})
}

// A click whose request times out while an alert is open does not fail.
func TestLongAlert(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"TimeoutError": "",
		"AbortError, as in Chrome before 124": `AbortSignal.timeout = (ms) => {
			const c = new AbortController();
			setTimeout(() => c.abort(), ms);
			return c.signal;
		}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream, app := startWithUpstream(t)
			closed := make(chan bool)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				upstream.ServeHTTP(w, r) // delivers the event before the response
				if r.Method == http.MethodPost {
					<-closed
				}
			})
			p := newTab(t, blocked)
			p.beforeLoad(script)
			p.shorten(map[int]int{request: 1000})
			p.open(app.url, "connected")
			p.keepOpen.Lock()
			p.js("setTimeout(() => document.querySelector('.push').click())")
			p.wantAlert()
			time.Sleep(time.Second) // as long as the page waits for the response
			close(closed)
			p.keepOpen.Unlock()
			p.awaitRest()
			p.await("document.getElementById('problem').textContent === ''")
		})
	}
}

// The page shows why a click failed, until one succeeds. The result of a click does not replace that of a newer click.
func TestPageSaysWhatFailed(t *testing.T) {
	t.Parallel()
	upstream, one := startWithUpstream(t)
	two := start(t, "PUSHER_URL="+upstream.PusherURL)
	held, release := make(chan bool, 1), make(chan bool, 1)
	t.Cleanup(func() { close(release) }) // after the page was checked
	w := newWire(t, strings.TrimPrefix(front(t, one.url, "POST /proxy", http.NotFoundHandler()), "http://"))
	p := openPage(t, served, w.url)
	hold := func(w http.ResponseWriter, r *http.Request) {
		held <- true
		<-release
		upstream.ServeHTTP(w, r)
	}
	clickHeld := func() {
		upstream.Override(hold)
		p.click()
		pushertest.WaitFor(t, "a click", func() bool { return len(held) == 1 })
	}
	clickHeld()
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "API call failed since (daily) message quota exceeded", http.StatusForbidden)
	})
	p.click()
	p.awaitText("problem", "message quota is used up")
	<-held
	release <- true
	p.wantAlert()
	p.awaitRest()
	p.awaitText("problem", "message quota is used up")

	upstream.Override(nil)
	p.click()
	p.wantAlert()
	p.await("document.getElementById('problem').textContent === ''")
	for path, want := range map[string]string{
		"wave":  "The server has no handler for /wave.", // a new button, without a handler
		"proxy": "404 page not found",                   // from a proxy, shown as it is
	} {
		p.js(fmt.Sprintf("document.querySelector('.push').dataset.post = %q", path))
		p.click()
		p.awaitText("problem", want)
	}

	// A failed click is reported, even if another page's event has made its kaomoji crash.
	p.js("document.querySelector('.push').dataset.post = 'pusher'")
	clickHeld()
	upstream.Override(nil)
	two.click()
	p.wantAlert()
	w.end()
	p.awaitText("problem", "The server can't be reached")
}
