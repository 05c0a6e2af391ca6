// Tests when and how often the page alerts, what it says about a click without an alert, and
// what stays on the page.
package e2e

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/pusher/pusher-http-go/v5"
)

// evaluate returns the value of an expression in the page.
func evaluate[T any](p *tab, expression string) T {
	p.t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.fatal("%s: %v", expression, err)
	}
	return value
}

// awaitRest waits until all kaomoji are back on their buttons, or fly back.
func (p *tab) awaitRest() {
	p.t.Helper()
	p.await("!document.querySelector('[data-phase]')")
}

// In a visible page, the alert follows the click within 200 ms.
func TestAlertLatency(t *testing.T) {
	app := start(t, "RATE_LIMIT=0")
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			p.do(chromedp.Evaluate[chromedp.Void]("window.alert = () => { window.took = performance.now() - clicked; }; undefined"))
			for try := 1; ; try++ {
				p.do(chromedp.Evaluate[chromedp.Void]("window.took = undefined; window.clicked = performance.now(); document.querySelector('.push').click()"))
				p.await("!!window.took")
				took := evaluate[float64](p, "took")
				if took <= 200 {
					break
				}
				if try == 10 { // a busy machine may delay some alerts, but not ten
					t.Fatalf("the alert took %.0f ms, want at most 200 ms", took)
				}
				p.awaitRest()
			}
		})
	}
}

// A hidden page alerts immediately. It uses no timers, which browsers slow down in hidden pages.
func TestHiddenPageAlertsAtOnce(t *testing.T) {
	app := start(t, "RATE_LIMIT=0")
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			p.hide()
			began := time.Now()
			for range 5 {
				pushertest.Request(t, "POST", app.url+"/pusher")
				p.wantAlert()
			}
			if took := time.Since(began); took > 4*time.Second { // with timers, each alert would take a second or more
				t.Errorf("5 alerts took %v", took)
			}
		})
	}
}

// While an alert is open, up to ten more wait; the page only counts the rest.
func TestEventsDuringAlert(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			app := start(t, "RATE_LIMIT=0")
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			p.keepOpen.Lock()
			pushertest.Request(t, "POST", app.url+"/pusher")
			p.wantAlert()
			for range 50 {
				pushertest.Request(t, "POST", app.url+"/pusher")
			}
			p.keepOpen.Unlock()
			for range 10 {
				p.wantAlert()
			}
			p.await("/^Crashes: 51, .* 40 had no alert, because too many came at once\\.$/.test(document.getElementById('trace').textContent)")
			pushertest.Request(t, "POST", app.url+"/pusher")
			p.wantAlert()
			p.await("document.getElementById('trace').textContent.startsWith('Crashes: 52,')")
			if n := len(p.alerts); n > 0 {
				t.Errorf("%d unexpected alerts", n)
			}
		})
	}
}

// The page ignores events without a message, and shows an alert for the next event with one.
func TestEventsWithoutMessage(t *testing.T) {
	t.Parallel()
	sample := sampleEvent(t)
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			api, err := pusher.ClientFromURL(upstream.PusherURL)
			if err != nil {
				t.Fatal(err)
			}
			p := newTab(t, cdn)
			p.open(start(t, "PUSHER_URL="+upstream.PusherURL).url, "connected")
			for _, data := range []string{"", "null", "text", "[]", "{}", `{"message":1}`, `{"message":null}`, `{"message":{"toString":1}}`, `{"message":["x"]}`} {
				if err := api.Trigger(sample.channel, sample.name, data); err != nil {
					t.Fatal(err)
				}
			}
			if err := api.Trigger(sample.channel, sample.name, fmt.Sprintf(`{"message":%q}`, sample.message)); err != nil {
				t.Fatal(err)
			}
			p.wantAlert()
			p.await("document.getElementById('trace').textContent.startsWith('Crashes: 1,')")
		})
	}
}

// An event is alerted once, also after a reconnect, when the page subscribes again.
func TestEventIsAlertedOnce(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			app := start(t, "RATE_LIMIT=0")
			w := newWire(t, app.url)
			p := newTab(t, cdn)
			p.open(w.url, "connected")
			p.recordStates()
			p.do(chromedp.Evaluate[chromedp.Void]("window.alerts = 0; window.alert = () => { alerts++; }; undefined"))
			for range 2 {
				pushertest.Request(t, "POST", app.url+"/pusher")
			}
			p.await("alerts === 2")
			w.cut()
			p.awaitReconnect()
			p.click()
			p.await("document.getElementById('trace').textContent.startsWith('Crashes: 3,')")
			p.await("alerts >= 3")
			p.awaitRest() // a second after the last alert
			if n := evaluate[int](p, "alerts"); n != 3 {
				t.Errorf("%d alerts for 3 events", n)
			}
		})
	}
}

// Simultaneous events are alerted one after the other, each after its own crash only.
func TestSimultaneousEvents(t *testing.T) {
	t.Parallel()
	const events = 5
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			app := start(t, "RATE_LIMIT=0")
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			p.do(chromedp.Evaluate[chromedp.Void](`window.alert = () => alerts.push(performance.now());
				new MutationObserver(() => { window.first ??= performance.now(); }).observe(document.getElementById('trace'), { childList: true });
				undefined`))
			var took []float64
			for range 10 { // a busy machine may delay some alerts, but not ten times
				p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`window.alerts = []; window.first = undefined;
					for (let i = 0; i < %d; i++) document.querySelector('.push').click()`, events)))
				p.await(fmt.Sprintf("alerts.length === %d", events))
				took = evaluate[[]float64](p, "alerts.map((at) => Math.round(at - first))")
				if took[events-1] <= events*150 {
					break
				}
			}
			t.Logf("alerts after %v ms", took)
			if took[events-1] > events*150 {
				t.Errorf("alerts after %v ms, want at most 150 ms for each", took)
			}
		})
	}
}

// loseEvents makes upstream accept events without delivering them, and returns their number so far.
func loseEvents(upstream *pushertest.Server) *atomic.Int32 {
	lost := new(atomic.Int32)
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.WriteString(w, "{}")
			lost.Add(1)
			return
		}
		upstream.ServeHTTP(w, r)
	})
	return lost
}

// The page reports a click that the server accepted, but whose event does not arrive.
func TestClickWithoutEvent(t *testing.T) {
	t.Parallel()
	upstream := pushertest.NewServer(t)
	loseEvents(upstream)
	app := start(t, "PUSHER_URL="+upstream.PusherURL)
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			began := time.Now()
			p.click()
			p.await("!!document.querySelector('.push[data-phase=flying]')")
			p.awaitProblem("the event has not reached this page")
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("the page reported the click after %v", took)
			}
			p.awaitRest()
		})
	}
}

// The page notices that one event of several quick clicks is missing.
func TestOneOfSeveralEventsIsMissing(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			app := start(t, "PUSHER_URL="+upstream.PusherURL)
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			var clicks atomic.Int32
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && clicks.Add(1) == 2 {
					io.WriteString(w, "{}")
					return
				}
				upstream.ServeHTTP(w, r)
			})
			for range 3 {
				p.click()
			}
			p.wantAlert()
			p.wantAlert()
			p.awaitProblem("the event has not reached this page")
			if n := len(p.alerts); n > 0 {
				t.Errorf("%d unexpected alerts", n)
			}
		})
	}
}

// A click before the client has loaded does not fail; the next one is alerted.
func TestClickBeforeClientHasLoaded(t *testing.T) {
	t.Parallel()
	app := start(t, "RATE_LIMIT=0")
	p := newTab(t, unresponsive)
	if _, err := chromedp.Call(p.ctx, page.Navigate, page.NavigateParams{URL: withTimes(t, app.url, map[string]int{"LOAD_MS": 2_000})}); err != nil {
		t.Fatal(err)
	}
	p.awaitState("connecting")
	p.click()
	p.await("!!document.querySelector('.push[data-phase=flying]')")
	if client := evaluate[string](p, "document.body.dataset.client ?? ''"); client != "" {
		t.Fatalf("the client %s had already loaded", client)
	}
	p.awaitState("connected")
	p.awaitProblem("The server accepted the click while this page was not connected")
	p.click()
	p.wantAlert()
	p.await("document.getElementById('problem').textContent === ''")
}

// If the page was not connected when the server accepted a click, it says so, and doesn't blame
// the settings.
func TestClickWhileNotConnected(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			w := newWire(t, upstream.HTTP.URL)
			app := start(t, "PUSHER_URL="+upstream.PusherURL, "PUSHER_SOCKET_URL="+strings.Replace(w.url, "http", "ws", 1))
			p := newTab(t, cdn)
			p.open(withTimes(t, app.url, map[string]int{"EVENT_MS": 15_000}), "connected")
			p.recordStates()
			w.silence(true)
			w.cut()
			p.awaitState("lost")
			p.click()
			pushertest.WaitFor(t, "the event of the click", func() bool { return len(upstream.Events()) == 1 })
			w.silence(false)
			w.cut()
			p.awaitReconnect()
			p.awaitProblem("The server accepted the click while this page was not connected")
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		upstream := pushertest.NewServer(t)
		app := start(t, "PUSHER_URL="+upstream.PusherURL)
		p := newTab(t, served)
		p.open(edited(t, app.url, func(path, text string) string {
			return strings.Replace(text, `data-key="testkey"`, `data-key="other"`, 1)
		}), "refused")
		p.click()
		p.awaitProblem("this page is not connected, so it can't show the alert. The status below says why.")
	})
}

// A click that failed is reported, even if another page's event has made its kaomoji crash.
func TestFailedClickAfterAnotherPagesEvent(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			one, two := start(t, "PUSHER_URL="+upstream.PusherURL), start(t, "PUSHER_URL="+upstream.PusherURL)
			p := newTab(t, cdn)
			p.open(one.url, "connected")
			arrived, release := make(chan bool, 1), make(chan bool)
			defer close(release)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) { arrived <- true; <-release })
			p.click()
			pushertest.WaitFor(t, "the request of the click", func() bool { return len(arrived) == 1 })
			upstream.Override(nil)
			pushertest.Request(t, "POST", two.url+"/pusher")
			p.wantAlert()
			one.cmd.Process.Kill()
			p.awaitProblem("The server can't be reached")
		})
	}
}

// The page reports a click without an event, even while another button's alerts keep coming.
func TestClickWithoutEventAmongAlerts(t *testing.T) {
	t.Parallel()
	upstream := pushertest.NewServer(t)
	lost := loseEvents(upstream)
	app := start(t, "PUSHER_URL="+upstream.PusherURL)
	p := newTab(t, served)
	p.open(edited(t, app.url, func(path, text string) string {
		button := regexp.MustCompile(`(?s)<button.*</button>`).FindString(text)
		second := regexp.MustCompile(`data-event="[^"]*"`).ReplaceAllString(button, `data-event="second"`)
		return strings.Replace(text, button, button+second, 1)
	}), "connected")
	p.click()
	pushertest.WaitFor(t, "the event of the click", func() bool { return lost.Load() == 1 })
	upstream.Override(nil)
	client, err := pusher.ClientFromURL(upstream.PusherURL)
	if err != nil {
		t.Fatal(err)
	}
	sample := sampleEvent(t)
	pace := time.NewTicker(250 * time.Millisecond)
	defer pace.Stop()
	began := time.Now()
	for !evaluate[bool](p, "document.getElementById('problem').textContent.includes('the event has not reached this page')") {
		if time.Since(began) > pushertest.Timeout {
			t.Fatal("no report, but alerts all the time")
		}
		<-pace.C
		if err := client.Trigger(sample.channel, "second", map[string]string{"message": sample.message}); err != nil {
			t.Fatal(err)
		}
		p.wantAlert()
	}
}

// A click whose request times out while an alert is open does not fail.
func TestLongAlert(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		cdn    cdn
		signal string // what replaces the page's AbortSignal
	}{
		{"with pusher-js", served, "AbortSignal.timeout(2_000)"},
		{"fallback", blocked, "AbortSignal.timeout(2_000)"},
		{"AbortError, as in Chrome before 124", blocked, "(() => { const c = new AbortController(); setTimeout(() => c.abort(), 2_000); return c.signal; })()"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			closed := make(chan bool)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				upstream.ServeHTTP(w, r) // delivers the event before the response
				if r.Method == http.MethodPost {
					<-closed
				}
			})
			app := start(t, "PUSHER_URL="+upstream.PusherURL)
			p := newTab(t, tt.cdn)
			p.open(edited(t, app.url, func(path, text string) string {
				return strings.Replace(text, "AbortSignal.timeout(15_000)", tt.signal, 1)
			}), "connected")
			p.keepOpen.Lock()
			p.do(chromedp.Evaluate[chromedp.Void]("setTimeout(() => document.querySelector('.push').click()); undefined"))
			p.wantAlert()
			time.Sleep(2 * time.Second) // longer than the page waits for the response
			close(closed)
			p.keepOpen.Unlock()
			p.awaitRest()
			p.await("document.getElementById('problem').textContent === ''")
		})
	}
}

// The result of a click does not replace the result of a newer click.
func TestNewestResultStays(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			app := start(t, "PUSHER_URL="+upstream.PusherURL)
			p := newTab(t, cdn)
			p.open(app.url, "connected")
			first := make(chan bool)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				first <- true
				<-first
				upstream.ServeHTTP(w, r)
			})
			p.click()
			<-first
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				http.Error(w, "API call failed since (daily) message quota exceeded", http.StatusForbidden)
			})
			p.click()
			p.awaitProblem("quota")
			upstream.Override(nil)
			first <- true
			p.wantAlert()
			p.awaitRest()
			p.awaitProblem("quota")
		})
	}
}

// With reduced motion, the crash is one still frame, visible before the alert and for a second
// after it.
func TestReducedMotion(t *testing.T) {
	p := newTab(t, blocked)
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}}); err != nil {
		t.Fatal(err)
	}
	p.open(start(t).url, "connected")
	// Record for each frame whether the crash is visible.
	p.do(chromedp.Evaluate[chromedp.Void](`window.before = window.after = 0;
		const button = document.querySelector('.push');
		const kaomoji = getComputedStyle(button.querySelector('span'), '::before');
		const look = () => {
			const visible = button.dataset.phase === 'hit' && kaomoji.visibility === 'visible';
			if (visible && !window.alerted) before++;
			if (!visible && window.alerted && !after) after = performance.now() - alerted;
			requestAnimationFrame(look);
		};
		look();
		window.alert = () => { window.alerted = performance.now(); };
		undefined`))
	p.click()
	p.await("window.after > 0")
	if frames := evaluate[int](p, "before"); frames < 1 {
		t.Error("the crash was not visible before the alert")
	}
	if ms := evaluate[float64](p, "after"); ms < 800 {
		t.Errorf("the crash was visible for %.0f ms after the alert, want about a second", ms)
	}
}

// If the browser suppresses alerts, the page still shows the number of crashes.
func TestTraceWithoutAlerts(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			p := newTab(t, cdn)
			p.open(start(t).url, "connected")
			p.do(chromedp.Evaluate[chromedp.Void]("window.alert = () => {}; undefined"))
			for i := range 2 {
				p.click()
				p.await(fmt.Sprintf("document.getElementById('trace').textContent.startsWith('Crashes: %d, the last at ')", i+1))
			}
			if text := evaluate[string](p, "document.getElementById('trace').innerText"); !strings.ContainsAny(text[len("Crashes: 2"):], "0123456789") {
				t.Errorf("no time in %q", text)
			}
		})
	}
}
