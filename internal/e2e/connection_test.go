// Tests that the page shows the true state of its connection and reconnects by itself: dead and lost connections,
// offline devices, close codes, clients that don't load.
package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/socket"

	"github.com/chromedp/cdproto/network"
	"github.com/coder/websocket"
)

// wire is a TCP proxy whose connections can stop forwarding while they stay open, as after sleep or a change of
// network.
type wire struct {
	url    string
	broken atomic.Pointer[atomic.Bool] // shared by the connections since the last repair
}

// fail makes all connections stop forwarding, including new ones.
func (w *wire) fail() { w.broken.Load().Store(true) }

// repair makes new connections work again.
func (w *wire) repair() { w.broken.Store(new(atomic.Bool)) }

// newWire returns a wire to the server at address.
func newWire(t testing.TB, address string) *wire {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	t.Cleanup(func() { listener.Close() })
	w := &wire{url: "http://" + listener.Addr().String()}
	w.repair()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			relay(client, address, w.broken.Load())
		}
	}()
	return w
}

// relay connects a client to a server, and forwards bytes until either closes its connection.
func relay(client net.Conn, address string, broken *atomic.Bool) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		client.Close()
		return
	}
	forward := func(to, from net.Conn) {
		io.Copy(wireEnd{to, broken}, from)
		to.Close()
	}
	go forward(server, client)
	go forward(client, server)
}

type wireEnd struct {
	net.Conn
	broken *atomic.Bool
}

// Write sends bytes, or discards them while the connection is broken.
func (e wireEnd) Write(b []byte) (int, error) {
	if e.broken.Load() {
		return len(b), nil
	}
	return e.Conn.Write(b)
}

// breakConnections makes the connections stop forwarding, and waits until the page has noticed that and has a new one.
// notice is called once they are broken.
func (w *wire) breakConnections(p *tab, notice func()) {
	p.t.Helper()
	p.js(`window.states = [];
		new MutationObserver(() => states.push(document.body.dataset.state))
			.observe(document.body, { attributeFilter: ['data-state'] })`)
	w.fail()
	w.repair()
	notice()
	p.await("states.includes('lost') && document.body.dataset.state === 'connected'")
}

const online = "dispatchEvent(new Event('online'))"

// Pings detect a WebSocket that is open but dead within 27 s, and at once when it may have died unnoticed. The page
// reconnects, and alerts the next event once. (TestHiddenPage tests a page that is shown again.)
func TestDeadConnection(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		app := start(t, "RATE_LIMIT=0")
		for ping, scripts := range map[int][]string{
			1000:  {""}, // no event
			never: {"dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))", online},
		} {
			t.Run(fmt.Sprintf("ping after %d ms", ping), func(t *testing.T) {
				w := newWire(t, app.address())
				p := newTab(t, cdn).shorten(map[int]int{activity: ping, pong: 300}).open(w.url, "connected")
				for _, script := range scripts {
					w.breakConnections(p, func() { p.js(script) })
					app.click()
					p.wantAlert()
				}
				if ping == never { // otherwise, the page notices without an event that it is offline
					w.fail()
					call(p, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: true})
					p.awaitState("lost")
					p.awaitText("status", "This device is offline")
					w.repair()
					call(p, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: false})
					p.awaitState("connected")
				}
			})
		}
	})
}

// The page reconnects by itself after the program has been restarted.
func TestPageReconnectsAfterRestart(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		first := start(t)
		p := openPage(t, cdn, first.url)
		first.stop()
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

// Messages from a Channels server: it has accepted the connection, and the subscription to the page's channel.
var (
	established = `{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.1\",\"activity_timeout\":120}"}`
	subscribed  = fmt.Sprintf(`{"event":"pusher_internal:subscription_succeeded","channel":%q,"data":"{}"}`, channel)
)

// The page says that it is connected only once it is subscribed. After a close code 42xx, it reconnects at once.
func TestConnected(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		var subscribing atomic.Bool
		end := make(chan bool)
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			conn := must(websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}))
			conn.Write(r.Context(), websocket.MessageText, []byte(established))
			conn.Read(r.Context()) // the subscription
			subscribing.Store(true)
			<-end
			conn.Close(4200, "")
		})
		p := newTab(t, cdn).open(app.url, "connecting")
		pushertest.WaitFor(t, "the subscription", subscribing.Load)
		if state := evaluate[string](p, "document.body.dataset.state"); state != "connecting" {
			t.Errorf("before the subscription succeeded, the page was %s", state)
		}
		// Closes that follow one another quickly would be delayed.
		p.js("{ const now = performance.now.bind(performance); performance.now = () => now() + 5000; }")
		upstream.Override(nil)
		began := time.Now()
		close(end)
		p.awaitState("connected")
		if took := time.Since(began); took > 800*time.Millisecond { // otherwise, the clients wait for a second or more
			t.Errorf("reconnected after %v", took)
		}
	})
}

// The page shows the reason for a close only as long as it is true. If it has never been connected, it names causes.
func TestStateAfterCloseCode(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		for _, tt := range []struct {
			code      int
			messages  []string // before the close
			now, then string   // states while the server closes connections, and after it is gone
		}{
			{4200, nil, "connecting", "blocked"},
			{4100, nil, "busy", "blocked"},
			{4100, []string{established, subscribed}, "busy", "lost"},
		} {
			var closes atomic.Int32
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				closes.Add(1)
				socket.Closing(tt.code, tt.messages...).ServeHTTP(w, r)
			})
			p := newTab(t, cdn).shorten(map[int]int{attempt: 500}).open(app.url, tt.now)
			pushertest.WaitFor(t, "more closes", func() bool { return closes.Load() >= 2 })
			p.awaitState(tt.now)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "gone", http.StatusBadGateway) })
			p.awaitState(tt.then)
			if tt.then == "blocked" {
				p.awaitText("status", "may be blocking WebSockets, or the server might not accept pages from "+app.url)
			}
		}
	})
}

// The page shows why it is not connected, in the server's words, with advice if it knows the cause.
func TestPageExplainsRefusal(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t, "TRUST_PROXY=1")
		private := ": Unable to retrieve auth string"
		if cdn == blocked {
			private = " (code 4009): This server supports public channels only"
		}
		p := newTab(t, cdn).shorten(map[int]int{attempt: 500, activity: 3000, eventPart: 100}).edit(
			"for (const [name, value] of new URLSearchParams(location.search)) document.body.dataset[name] = value")
		for _, tt := range []struct {
			code  int    // with which the server closes the connection
			query string // what differs in the page
			state string
			text  string
		}{
			{4004, "", "refused", "over its connection quota"},
			{4100, "", "busy", "isn't accepting connections right now (code 4100): no. Trying"},
			{4009, "", "refused", "The server refused the connection (code 4009): no. Reload"},
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
		// A page that was loaded over HTTPS can't connect to a ws:// address.
		p.open(pushertest.NewTLSServer(t, forward(t, app.url)).URL, "blocked")
		p.awaitText("status", "The site owner should set PUSHER_SOCKET_URL")
		p.click()
		p.awaitText("problem", "this page is not connected, so it can't show the alert. The status below says why.")
	})
}

// A handshake that is slower than the first attempt may be succeeds: each attempt may take longer than the last.
func TestSlowHandshakeSucceeds(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		upstream, app := startWithUpstream(t)
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(1500 * time.Millisecond)
			upstream.ServeHTTP(w, r)
		})
		newTab(t, cdn).shorten(map[int]int{attempt: 400}).open(app.url, "connected")
	})
}

// A page whose scripts can't run says what to do.
func TestScriptsDoNotRun(t *testing.T) {
	t.Parallel()
	app := start(t)
	mux := http.NewServeMux()
	mux.Handle("/", forward(t, app.url))
	mux.Handle("/static/channels.js", http.NotFoundHandler())
	for _, tt := range []struct{ name, url, script, text, problem string }{
		{"no client loads", serve(t, mux), "", "Reload the page", "channels.js"},
		{"missing function", app.url, "delete AbortSignal.timeout", "use a newer browser", "too old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTab(t, blocked).beforeLoad(tt.script)
			p.navigate(tt.url)
			pushertest.WaitFor(t, tt.problem, func() bool { return strings.Contains(p.failed(), tt.problem) })
			p.mu.Lock()
			p.problem = "" // is expected
			p.mu.Unlock()
			p.await(fmt.Sprintf(`document.querySelector('#status').innerText.includes(%q)
				&& getComputedStyle(document.querySelector('.late') ?? document.body).visibility === 'visible'`, tt.text))
		})
	}
}
