// Tests when and how often the page alerts, and what it says about a click that failed. At its end, each test checks
// that every event was alerted exactly once; see tab.check.
package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
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

// Each click in one of two tabs shows one alert in each of them. The page uses the fallback if pusher-js does not load,
// or was changed.
func TestBothTabsAlert(t *testing.T) {
	t.Parallel()
	for _, cdn := range []cdn{served, tampered, blocked, unresponsive} {
		t.Run(string(cdn), func(t *testing.T) {
			t.Parallel()
			app := start(t, "RATE_LIMIT=0")
			one := openPage(t, cdn, app.url)
			two := openPage(t, cdn, app.url)
			wantAlerts(one, two)
		})
	}
}

// The button works with the keyboard alone.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	p := openPage(t, blocked, start(t).url)
	for n := 0; n < 10 && !evaluate[bool](p, "document.activeElement.matches('.push')"); n++ {
		perform(p, chromedp.KeyEvent("\t"))
	}
	for _, key := range []string{"\r", " "} {
		p.await("document.activeElement.matches('.push:focus-visible')")
		perform(p, chromedp.KeyEvent(key))
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
		p := newTab(t, blocked).prefer("prefers-color-scheme", scheme)
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

// awaitRest waits until all kaomoji are back on their buttons, or are flying back.
func (p *tab) awaitRest() {
	p.t.Helper()
	p.await("!document.querySelector('[data-phase]')")
}

// The alert follows the click within 300 ms, after a crash that is visible for at least one frame, also with reduced
// motion. It stays visible for about a second.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, motion := range []string{"no-preference", "reduce"} {
		app := start(t, "RATE_LIMIT=0")
		p := newTab(t, blocked).prefer("prefers-reduced-motion", motion).open(app.url, "connected")
		p.js(`const button = document.querySelector('.push');
			const kaomoji = getComputedStyle(button.querySelector('span'), '::before');
			const visible = () => button.dataset.phase === 'hit' && kaomoji.visibility === 'visible';
			window.crash = () => new Promise((resolve) => {
				const clicked = performance.now();
				let frames = 0, alerted;
				window.alert = () => { alerted = performance.now(); };
				const look = () => {
					if (visible() && !alerted) frames++;
					if (!visible() && alerted) return resolve([alerted - clicked, frames, performance.now() - alerted]);
					requestAnimationFrame(look);
				};
				button.click();
				look();
			})`)
		for try := 1; ; try++ { // a busy machine may delay some alerts, but not ten
			took := evaluate[[]float64](p, "crash()")
			p.wanted++ // shown by the function above
			if took[0] <= 300 && took[1] >= 1 && took[2] >= 800 {
				break
			} else if try == 10 {
				t.Fatalf("%s: alerted after %.0f ms and %.0f frames, visible for %.0f ms more", motion, took[0], took[1], took[2])
			}
		}
	}
}

// A hidden page alerts immediately, without timers, which browsers slow down in hidden pages. When it is shown again,
// it checks its connection.
func TestHiddenPage(t *testing.T) {
	t.Parallel()
	app := start(t, "RATE_LIMIT=0")
	for _, cdn := range []cdn{served, blocked} {
		t.Run(string(cdn), func(t *testing.T) {
			w := newWire(t, app.address())
			p := newTabIn(t, hiding, cdn).shorten(map[int]int{activity: never, pong: 300}).open(w.url, "connected")
			front, cancel := chromedp.NewContext(p.ctx, chromedp.WithNewWindow(false))
			defer cancel()
			if err := chromedp.Do(front, chromedp.Navigate("about:blank")); err != nil {
				t.Fatal(err)
			}
			p.await("document.hidden")
			took := 5 * time.Second // with timers, each alert would take a second or more
			for try := 0; took > 4*time.Second; try++ {
				if try == 3 { // a busy machine is slow, too, but not always
					t.Fatalf("5 alerts took %v", took)
				}
				began := time.Now()
				for range 5 {
					app.click()
					p.wantAlert()
				}
				took = time.Since(began)
			}
			w.breakConnections(p, func() { call(p, page.BringToFront, cdp.Empty{}) })
		})
	}
}

// While an alert is open, up to ten more wait; the page only counts the rest. Alerts appear in the order
// of their events. The page ignores events without a message.
func TestEventsDuringAlert(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t, "RATE_LIMIT=0")
		p := newTab(t, cdn)
		skipped := 0
		for try := 0; skipped != 40; try++ {
			if try == 3 { // on a busy machine, some events arrive after the next alert
				t.Fatalf("%d of 50 events had no alert, want 40", skipped)
			}
			p.open(app.url, "connected")
			p.keepOpen.Lock()
			app.click()
			p.wantAlert()
			for range 50 {
				app.click()
			}
			p.keepOpen.Unlock()
			p.awaitText("trace", "Crashes: 51,")
			_, skipped = p.events()
			for range 50 - skipped {
				p.wantAlert()
			}
		}
		for _, data := range []string{"", "null", "text", "[]", `{"message":1}`, `{"message":null}`, `{"message":["x"]}`} {
			trigger(t, upstream, event, data)
		}
		for n := range 3 {
			trigger(t, upstream, event, fmt.Sprintf(`{"message":"%d"}`, n))
		}
		for n := range 3 {
			p.wantAlert(fmt.Sprint(n))
		}
	})
}

// trigger triggers an event on the page's channel.
func trigger(t testing.TB, upstream *pushertest.Server, name, data string) {
	t.Helper()
	api := must(pusher.ClientFromURL(upstream.PusherURL))
	if err := api.Trigger(channel, name, data); err != nil {
		t.Fatal(err)
	}
}

// The page reports a click that the server accepted but whose event does not arrive, here the second click.
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
		p := newTab(t, cdn).shorten(map[int]int{eventPart: 100}).edit(`
			const button = document.querySelector('.push'), second = button.cloneNode(true);
			second.dataset.event = 'second';
			button.after(second);`).open(app.url, "connected")
		for range 3 {
			p.click()
		}
		p.wantAlert()
		p.wantAlert()
		const reported = "document.getElementById('problem').textContent.includes('the event has not reached this page')"
		for n := 0; n < 50 && !evaluate[bool](p, reported); n++ { // another button's alerts don't delay the report
			trigger(t, upstream, "second", fmt.Sprintf(`{"message":%q}`, message))
			p.wantAlert()
		}
		p.await(reported)
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
		p := newTab(t, cdn).shorten(map[int]int{activity: never, pong: 300}).open(app.url, "connected")
		w.fail()
		p.js(online)
		p.awaitState("lost")
		p.click()
		pushertest.WaitFor(t, "the event of the click", func() bool { return len(upstream.Events()) == 1 })
		w.repair()
		p.js(online)
		p.awaitState("connected")
		p.awaitText("problem", notConnected)
	})
	t.Run("before the client has loaded", func(t *testing.T) {
		p := newTab(t, unresponsive).shorten(map[int]int{load: 1000, eventPart: 200}).open(start(t).url, "connecting")
		p.click()
		p.awaitText("problem", notConnected)
		p.awaitState("connected")
		p.click()
		p.wantAlert()
		p.await("document.getElementById('problem').textContent === ''")
	})
}

// A click whose request times out while an alert is open does not fail.
func TestLongAlert(t *testing.T) {
	t.Parallel()
	upstream, app := startWithUpstream(t)
	closed := make(chan bool)
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		upstream.ServeHTTP(w, r) // delivers the event before the response
		if r.Method == http.MethodPost {
			<-closed
		}
	})
	p := newTab(t, blocked).shorten(map[int]int{request: 1000}).open(app.url, "connected")
	p.keepOpen.Lock()
	p.js("setTimeout(() => document.querySelector('.push').click())")
	p.wantAlert()
	time.Sleep(time.Second) // as long as the page waits for the response
	close(closed)
	p.keepOpen.Unlock()
	p.awaitRest()
	p.await("document.getElementById('problem').textContent === ''")
}

// The page shows why a click failed, until one succeeds. The result of a click does not replace that of a newer click.
func TestPageSaysWhatFailed(t *testing.T) {
	t.Parallel()
	upstream, app := startWithUpstream(t)
	held, release := make(chan bool, 1), make(chan bool, 1)
	t.Cleanup(func() { close(release) }) // after the page was checked
	p := openPage(t, served, app.url)
	clickHeld := func() {
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			held <- true
			if <-release {
				upstream.ServeHTTP(w, r)
			} else {
				http.Error(w, "", http.StatusInternalServerError)
			}
		})
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

	// The event of a click does not count for an older click that fails later.
	clickHeld()
	upstream.Override(nil)
	p.click()
	p.wantAlert()
	<-held
	release <- false
	p.awaitText("problem", "server error")
	p.await("document.getElementById('problem').textContent === ''")
	p.js("document.querySelector('.push').dataset.post = 'wave'") // a new button, without a handler
	p.click()
	p.awaitText("problem", "The server has no handler for /wave.")
	p.awaitRest()

	// A failed click is reported, even if another page's event has made its kaomoji crash.
	p.js("document.querySelector('.push').dataset.post = 'pusher'")
	clickHeld()
	upstream.Override(nil)
	trigger(t, upstream, event, fmt.Sprintf(`{"message":%q}`, message))
	p.wantAlert()
	app.signal(os.Kill)
	p.awaitText("problem", "The server can't be reached")
}
