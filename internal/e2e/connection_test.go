// Tests that the page shows the true state of its connection and reconnects by itself: dead and lost connections,
// offline devices, close codes, clients that don't load.
package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/socket"

	"github.com/chromedp/cdproto/network"
	"github.com/coder/websocket"
)

// wire is a TCP proxy that can stop forwarding while its connections stay open, as after sleep or a change of network.
type wire struct {
	url      string
	listener net.Listener
	down     atomic.Bool // whether new connections are silent from the start
	mu       sync.Mutex
	open     []*wireEnd
}

// wireEnd is one end of a connection through a wire.
type wireEnd struct {
	net.Conn
	silent atomic.Bool
}

// Write sends bytes, or discards them while the connection is silent.
func (e *wireEnd) Write(b []byte) (int, error) {
	if e.silent.Load() {
		return len(b), nil
	}
	return e.Conn.Write(b)
}

// newWire returns a wire to the server at address.
func newWire(t testing.TB, address string) *wire {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	w := &wire{url: "http://" + listener.Addr().String(), listener: listener}
	t.Cleanup(w.end)
	forward := func(to, from *wireEnd) { io.Copy(to, from); to.Close() }
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				client.Close()
				continue
			}
			a, b := &wireEnd{Conn: client}, &wireEnd{Conn: server}
			a.silent.Store(w.down.Load())
			b.silent.Store(w.down.Load())
			w.mu.Lock()
			w.open = append(w.open, a, b)
			w.mu.Unlock()
			go forward(a, b)
			go forward(b, a)
		}
	}()
	return w
}

// silence makes the existing connections stop forwarding.
func (w *wire) silence() { w.each(func(e *wireEnd) { e.silent.Store(true) }) }

// cut closes the existing connections.
func (w *wire) cut() { w.each(func(e *wireEnd) { e.Close() }) }

// end closes the existing connections, and refuses new ones.
func (w *wire) end() { w.listener.Close(); w.cut() }

func (w *wire) each(do func(*wireEnd)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.open {
		do(e)
	}
}

// recordStates makes the page record its states in window.states.
func (p *tab) recordStates() {
	p.t.Helper()
	p.js(`window.states = [];
		new MutationObserver(() => states.push(document.body.dataset.state))
			.observe(document.body, { attributeFilter: ['data-state'] })`)
}

// awaitReconnect waits until the page has lost its connection and has a new one.
func (p *tab) awaitReconnect() {
	p.t.Helper()
	p.await("states.includes('lost') && document.body.dataset.state === 'connected'")
}

// Pings detect a WebSocket that is open but dead within 27 s, and at once when it may have died unnoticed. The page
// reconnects, and alerts the next event once. (TestHiddenPage tests a page that is shown again.)
func TestDeadConnection(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		app := start(t, "RATE_LIMIT=0")
		for name, tt := range map[string]struct {
			ping   int
			script string // simulates an event
		}{
			"pings":        {1000, ""},
			"restored":     {never, "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"},
			"online again": {never, "dispatchEvent(new Event('online'))"},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWire(t, app.address())
				p := newTab(t, cdn)
				p.shorten(map[int]int{activity: tt.ping, pong: 300})
				p.open(w.url, "connected")
				p.recordStates()
				w.silence()
				p.js(tt.script)
				p.awaitReconnect()
				app.click()
				p.wantAlert()
			})
		}
	})
}

// A page that is offline says so, and reconnects when it is online again.
func TestOffline(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		w := newWire(t, start(t).address())
		p := newTab(t, cdn)
		p.shorten(map[int]int{activity: never, pong: 300})
		p.open(w.url, "connected")
		w.down.Store(true)
		w.silence()
		call(p, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: true})
		p.awaitState("lost")
		p.awaitText("status", "This device is offline")
		w.down.Store(false)
		call(p, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: false})
		p.awaitState("connected")
	})
}

// The page reconnects by itself after the program has been restarted.
func TestPageReconnectsAfterRestart(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		first := start(t)
		p := openPage(t, cdn, first.url)
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		p.awaitState("lost")
		second := startCommand(t, command(t, nil, "-addr", first.address()))
		began := time.Now()
		p.awaitState("connected")
		if took := time.Since(began); took > 10*time.Second { // pusher-js alone takes 15 s
			t.Errorf("the page reconnected after %v", took)
		}
		second.click()
		p.wantAlert()
	})
}

const established = `{"event":"pusher:connection_established","data":` +
	`"{\"socket_id\":\"1.1\",\"activity_timeout\":120}"}`

// subscribed returns the message that confirms a subscription to the page's channel.
func subscribed(t testing.TB) string {
	const message = `{"event":"pusher_internal:subscription_succeeded","channel":%q,"data":"{}"}`
	return fmt.Sprintf(message, sampleEvent(t).channel)
}

// The page says that it is connected only once it is subscribed. After a close code 42xx, it reconnects at once.
func TestConnected(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		asked, confirm, end := make(chan bool, 1), make(chan bool, 1), make(chan bool, 1)
		confirmation := subscribed(t)
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				t.Error(err)
				return
			}
			conn.Write(r.Context(), websocket.MessageText, []byte(established))
			conn.Read(r.Context()) // the subscription
			asked <- true
			<-confirm
			conn.Write(r.Context(), websocket.MessageText, []byte(confirmation))
			<-end
			conn.Close(4200, "")
		})
		p := newTab(t, cdn)
		p.open(app.url, "connecting")
		wait := func(what string, c chan bool) { pushertest.WaitFor(t, what, func() bool { return len(c) == 1 }) }
		wait("the subscription", asked)
		if state := evaluate[string](p, "document.body.dataset.state"); state != "connecting" {
			t.Errorf("before the subscription succeeded, the page was %s", state)
		}
		confirm <- true
		p.awaitState("connected")
		// Closes that follow one another quickly would be delayed.
		p.js("{ const now = performance.now.bind(performance); performance.now = () => now() + 5000; }")
		<-asked
		began := time.Now()
		end <- true
		wait("the page to reconnect", asked)
		if took := time.Since(began); took > 800*time.Millisecond { // otherwise, the clients wait for a second or more
			t.Errorf("reconnected after %v", took)
		}
		confirm <- true
		end <- true
	})
}

// The page shows the reason for a close only as long as it is true.
func TestStateAfterCloseCode(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		for name, tt := range map[string]struct {
			code         int
			connectFirst bool
			now, then    string // states while the server closes connections, and after it is gone
		}{
			"reconnect, on the first load":     {4200, false, "connecting", "blocked"},
			"over capacity, on the first load": {4100, false, "busy", "blocked"},
			"over capacity, once connected":    {4100, true, "busy", "lost"},
		} {
			t.Run(name, func(t *testing.T) {
				var closes atomic.Int32
				first := socket.Closing(tt.code, established, subscribed(t))
				upstream.Override(func(w http.ResponseWriter, r *http.Request) {
					if closes.Add(1) == 1 && tt.connectFirst {
						first.ServeHTTP(w, r)
						return
					}
					socket.Closing(tt.code).ServeHTTP(w, r)
				})
				p := newTab(t, cdn)
				p.shorten(map[int]int{attempt: 500})
				p.open(app.url, tt.now)
				p.recordStates()
				pushertest.WaitFor(t, "more closes", func() bool { return closes.Load() >= 2 })
				p.awaitState(tt.now)
				upstream.Override(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "gone", http.StatusBadGateway) })
				p.awaitState(tt.then)
				if !tt.connectFirst {
					p.await("!states.includes('lost')")
				}
			})
		}
	})
}

// The page shows why it is not connected, in the server's words, with advice if it knows the cause.
func TestPageExplainsRefusal(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		private := ": Unable to retrieve auth string"
		if cdn == blocked {
			private = " (code 4009): This server has public channels only"
		}
		p := newTab(t, cdn)
		p.edit("for (const [name, value] of new URLSearchParams(location.search)) document.body.dataset[name] = value")
		for _, tt := range []struct {
			code  int    // with which the server closes the connection
			query string // what differs in the page
			state string
			text  string
		}{
			{4004, "", "refused", "over its connection quota"},
			{4100, "", "busy", "isn't accepting connections right now (code 4100): no. Trying"},
			{4123, "", "busy", "(code 4123): no."},
			{4009, "", "refused", "Refused (code 4009): no. Reload"},
			{0, "?key=other", "refused", `(code 4001): App key "other" not in this cluster.`},
			{0, "?channel=a+b", "refused", `The server rejected the subscription to a b: Invalid channel name "a b"`},
			{0, "?channel=private-a", "refused", "The server rejected the subscription to private-a" + private},
		} {
			upstream.Override(nil)
			if tt.code != 0 {
				failed := fmt.Sprintf(`{"event":"pusher:error","data":{"code":%d,"message":"no"}}`, tt.code)
				upstream.Override(socket.Closing(tt.code, failed).ServeHTTP)
			}
			p.open(app.url+"/"+tt.query, tt.state)
			p.awaitText("status", tt.text)
		}
	})
}

// If WebSockets are blocked and there is no other transport, the page says so. A page that was loaded over HTTPS can't
// connect to a ws:// address.
func TestPageExplainsBlockedWebSockets(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t, "TRUST_PROXY=1")
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "Blocked by a proxy.", http.StatusForbidden)
		})
		for url, text := range map[string]string{
			app.url: "may be blocking WebSockets, or the server might not accept pages from " + app.url,
			pushertest.NewTLSServer(t, forward(t, app.url)).URL: "The site owner should set PUSHER_SOCKET_URL",
		} {
			p := newTab(t, cdn)
			p.shorten(map[int]int{load: 500})
			p.open(url, "blocked")
			p.awaitText("status", text)
		}
	})
}

// A handshake that is slower than the first attempt may be succeeds: each attempt may take longer than the last.
func TestSlowHandshakeSucceeds(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(1500 * time.Millisecond):
				upstream.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		})
		p := newTab(t, cdn)
		p.shorten(map[int]int{attempt: 400})
		p.open(app.url, "connected")
	})
}

// A page whose scripts can't run says what to do.
func TestScriptsDoNotRun(t *testing.T) {
	t.Parallel()
	app := start(t)
	future := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		io.WriteString(w, "const of the future")
	})
	for _, tt := range []struct{ name, url, script, text, exception string }{
		{"no client loads", front(t, app.url, "/static/channels.js", http.NotFoundHandler()), "", "Reload the page", ""},
		{"unknown syntax", front(t, app.url, "/static/app.js", future), "", "use a newer browser", "SyntaxError"},
		{"missing function", app.url, "delete AbortSignal.timeout", "use a newer browser", "too old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTab(t, blocked)
			p.beforeLoad(tt.script)
			p.navigate(tt.url)
			ignore := func() string { return "" }
			p.waitFor(ignore, tt.text, p.is(fmt.Sprintf(`document.querySelector('#status')?.innerText.includes(%q)
				&& getComputedStyle(document.querySelector('.late') ?? document.body).visibility === 'visible'`, tt.text)))
			p.waitFor(ignore, tt.exception, func() bool { return strings.Contains(p.threw(), tt.exception) })
			p.mu.Lock()
			p.thrown = ""
			p.mu.Unlock()
		})
	}
}
