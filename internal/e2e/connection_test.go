// Tests that the page shows the true state of its connection and reconnects by itself: dead and
// lost connections, offline devices, close codes, clients that don't load.
package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/lxzan/gws"
)

// edited returns the URL of a proxy to app that changes the files that the browser receives:
// edit returns the new text of a file, or "" for status 404.
func edited(t testing.TB, app string, edit func(path, text string) string) string {
	t.Helper()
	target, err := url.Parse(app)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the embedded server compares it with the Origin
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode != http.StatusOK {
				return nil
			}
			text, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			changed := edit(r.Request.URL.Path, string(text))
			if changed == "" {
				r.StatusCode = http.StatusNotFound
			}
			r.Body = io.NopCloser(strings.NewReader(changed))
			r.Header.Set("Content-Length", strconv.Itoa(len(changed)))
			r.ContentLength = int64(len(changed))
			return nil
		},
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// withTimes returns the URL of a proxy to app that shortens times in the page's scripts, so
// that tests are fast. times maps the names of constants to milliseconds.
func withTimes(t testing.TB, app string, times map[string]int) string {
	t.Helper()
	var mu sync.Mutex
	changed := map[string]bool{}
	t.Cleanup(func() {
		for name := range times {
			if !changed[name] && !t.Failed() && !t.Skipped() {
				t.Errorf("no script of the page has a constant %s", name)
			}
		}
	})
	return edited(t, app, func(path, text string) string {
		if !strings.HasSuffix(path, ".js") {
			return text
		}
		mu.Lock()
		defer mu.Unlock()
		for name, ms := range times {
			line := regexp.MustCompile(`const ` + name + ` = [\d_]+;`)
			changed[name] = changed[name] || line.MatchString(text)
			text = line.ReplaceAllString(text, fmt.Sprintf("const %s = %d;", name, ms))
		}
		return text
	})
}

// wire is a TCP proxy that can stop forwarding while its connections stay open, as after sleep
// or a change of network.
type wire struct {
	url string

	mu          sync.Mutex
	silent      bool // whether new connections are silent from the start
	connections []*wireConn
}

// wireConn is a connection through a wire.
type wireConn struct {
	client, server net.Conn

	mu     sync.Mutex
	silent bool
}

// newWire returns a wire to the server at target, which begins with http.
func newWire(t testing.TB, target string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{url: "http://" + listener.Addr().String()}
	t.Cleanup(func() { listener.Close(); w.cut() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
			if err != nil {
				client.Close()
				continue
			}
			w.mu.Lock()
			c := &wireConn{client: client, server: server, silent: w.silent}
			w.connections = append(w.connections, c)
			w.mu.Unlock()
			go c.forward(server, client)
			go c.forward(client, server)
		}
	}()
	return w
}

// forward forwards bytes in one direction until the connection ends. While the connection is
// silent, it discards them.
func (c *wireConn) forward(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		c.mu.Lock()
		if !c.silent {
			to.Write(buffer[:n])
		}
		c.mu.Unlock()
	}
}

// silence makes the existing connections stop forwarding and, if later is true, new ones too.
func (w *wire) silence(later bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = later
	for _, c := range w.connections {
		c.mu.Lock()
		c.silent = true
		c.mu.Unlock()
	}
}

// cut closes the existing connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.connections {
		c.client.Close()
		c.server.Close()
	}
}

// recordStates makes the page record its states in window.states.
func (p *tab) recordStates() {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void](`window.states = [];
		new MutationObserver(() => states.push(document.body.dataset.state)).observe(document.body, { attributeFilter: ['data-state'] }); undefined`))
}

// awaitReconnect waits until the page has lost its connection and has a new one.
func (p *tab) awaitReconnect() {
	p.t.Helper()
	p.await("states.includes('lost') && document.body.dataset.state === 'connected'")
}

// Pings detect a WebSocket that is open but dead, and the page reconnects.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../static/connection.js")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, m := range regexp.MustCompile(`(?m)^const (?:ACTIVITY|PONG)_MS = ([\d_]+);`).FindAllStringSubmatch(string(script), -1) {
		ms, _ := strconv.Atoi(strings.ReplaceAll(m[1], "_", ""))
		sum += ms
	}
	if sum < 5_000 || sum > 29_000 {
		t.Errorf("a dead connection is detected after %d ms, want 5 s to 29 s", sum)
	}
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			app := start(t)
			w := newWire(t, withTimes(t, app.url, map[string]int{"ACTIVITY_MS": 300, "PONG_MS": 300}))
			p := newTab(t, cdn)
			p.open(w.url, "connected")
			p.recordStates()
			w.silence(false)
			p.awaitReconnect()
			pushertest.Request(t, "POST", app.url+"/pusher")
			p.wantAlert()
		})
	}
}

// A page that is offline says so, and reconnects when it is online again.
func TestOffline(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			// The page pings immediately, not after ACTIVITY_MS.
			w := newWire(t, withTimes(t, start(t).url, map[string]int{"PONG_MS": 300}))
			p := newTab(t, cdn)
			p.open(w.url, "connected")
			online := func(is bool) {
				w.silence(!is)
				if _, err := chromedp.Call(p.ctx, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: !is}); err != nil {
					t.Fatal(err)
				}
			}
			online(false)
			began := time.Now()
			p.awaitState("lost")
			p.await("document.getElementById('status').textContent.includes('This device is offline')")
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the page noticed after %v", took)
			}
			online(true)
			p.awaitState("connected")
		})
	}
}

// The page checks its connection whenever the connection may have died unnoticed.
func TestReturningPageChecksConnection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		script string // simulates the event; "" hides the tab and shows it again
	}{
		{"shown", ""},
		{"restored from the back-forward cache", "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))"},
		{"online again", "dispatchEvent(new Event('online'))"},
	} {
		for _, cdn := range bothClients {
			t.Run(tt.name+" "+cdn.String(), func(t *testing.T) {
				t.Parallel()
				w := newWire(t, withTimes(t, start(t).url, map[string]int{"PONG_MS": 300}))
				p := newTab(t, cdn)
				p.open(w.url, "connected")
				p.recordStates()
				if tt.script == "" {
					p.hide()
				}
				w.silence(false)
				began := time.Now()
				if tt.script == "" {
					p.show()
				} else {
					p.do(chromedp.Evaluate[chromedp.Void](tt.script + "; undefined"))
				}
				p.awaitReconnect()
				if took := time.Since(began); took > 10*time.Second { // well before ACTIVITY_MS, 15 s
					t.Errorf("the page noticed after %v", took)
				}
			})
		}
	}
}

// hide opens another tab in front of this one.
func (p *tab) hide() {
	p.t.Helper()
	front, cancel := chromedp.NewContext(p.ctx, chromedp.WithNewWindow(false))
	p.t.Cleanup(cancel)
	if err := chromedp.Do(front, chromedp.Navigate("about:blank")); err != nil {
		p.fatal("%v", err)
	}
	p.await("document.hidden")
}

// show brings this tab to the front.
func (p *tab) show() {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, page.BringToFront, cdp.Empty{}); err != nil {
		p.fatal("%v", err)
	}
	p.await("!document.hidden")
}

// The page shows the reason for a close only as long as it is true.
func TestStateAfterCloseCode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		code         int
		connectFirst bool
		now, then    string // states while the server closes connections, and after it is gone
	}{
		{"reconnect, on the first load", 4200, false, "connecting", "blocked"},
		{"over capacity, on the first load", 4100, false, "busy", "blocked"},
		{"over capacity, once connected", 4100, true, "busy", "lost"},
	} {
		for _, cdn := range bothClients {
			t.Run(tt.name+" "+cdn.String(), func(t *testing.T) {
				t.Parallel()
				upstream := pushertest.NewServer(t)
				upgrader := gws.NewUpgrader(gws.BuiltinEventHandler{}, nil)
				connectFirst := tt.connectFirst
				closes := make(chan bool, 10_000)
				upstream.Override(func(w http.ResponseWriter, r *http.Request) {
					conn, err := upgrader.Upgrade(w, r)
					if err != nil {
						return // the client has given up
					}
					if connectFirst {
						connectFirst = false
						conn.WriteString(`{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.1\",\"activity_timeout\":120}"}`)
						conn.WriteString(fmt.Sprintf(`{"event":"pusher_internal:subscription_succeeded","channel":%q,"data":"{}"}`, sampleEvent(t).channel))
					}
					conn.WriteClose(uint16(tt.code), []byte("no"))
					closes <- true
				})
				app := start(t, "PUSHER_URL="+upstream.PusherURL)
				p := newTab(t, cdn)
				p.open(app.url, tt.now)
				p.recordStates()
				for range 3 {
					<-closes
				}
				p.awaitState(tt.now)
				upstream.Override(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "gone", http.StatusBadGateway) })
				p.awaitState(tt.then)
				if !tt.connectFirst {
					p.await("!states.includes('lost')")
				}
			})
		}
	}
}

// A handshake that is slower than UNAVAILABLE_MS succeeds: each attempt may take longer than the last.
func TestSlowHandshakeSucceeds(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			app := start(t, "PUSHER_URL="+upstream.PusherURL)
			var interrupted atomic.Int32
			upstream.Override(func(rw http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(2 * time.Second):
					upstream.ServeHTTP(rw, r)
				case <-r.Context().Done():
					interrupted.Add(1)
				}
			})
			p := newTab(t, cdn)
			p.open(withTimes(t, app.url, map[string]int{"UNAVAILABLE_MS": 500}), "connected")
			t.Logf("%d attempts were interrupted", interrupted.Load())
		})
	}
}

// After a close code 42xx, the page reconnects at once.
func TestReconnectsAtOnce(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			upgrader := gws.NewUpgrader(gws.BuiltinEventHandler{}, nil)
			var closed, reconnected atomic.Int64 // in ms
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				if closed.Load() > 0 {
					reconnected.CompareAndSwap(0, time.Now().UnixMilli())
					upstream.ServeHTTP(w, r)
					return
				}
				conn, err := upgrader.Upgrade(w, r)
				if err != nil {
					t.Error(err)
					return
				}
				go conn.ReadLoop() // ends the TCP connection after the client's close frame
				conn.WriteString(`{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.1\",\"activity_timeout\":120}"}`)
				time.Sleep(1500 * time.Millisecond) // closes that follow one another quickly would be delayed
				closed.Store(time.Now().UnixMilli())
				conn.WriteClose(4200, nil)
			})
			p := newTab(t, cdn)
			p.open(start(t, "PUSHER_URL="+upstream.PusherURL).url, "connected")
			took := reconnected.Load() - closed.Load()
			t.Logf("reconnected after %d ms", took)
			if took > 800 { // otherwise, the clients wait for a second or more
				t.Errorf("reconnected after %d ms", took)
			}
		})
	}
}

// A page whose client can't be loaded says so.
func TestNoClientLoads(t *testing.T) {
	url := edited(t, start(t).url, func(path, text string) string {
		if path == "/static/channels.js" {
			return ""
		}
		return text
	})
	p := newTab(t, blocked)
	p.client = ""
	if _, err := chromedp.Call(p.ctx, page.Navigate, page.NavigateParams{URL: url}); err != nil {
		t.Fatal(err)
	}
	p.awaitState("blocked")
	p.await("document.getElementById('status').textContent.includes('Reload the page')")
}

// In a browser that is too old for the page's scripts, the page says what to do.
func TestOldBrowser(t *testing.T) {
	const text = "document.querySelector('#status .late')?.innerText.includes('use a newer browser') && getComputedStyle(document.querySelector('.late')).visibility === 'visible'"
	t.Parallel()
	t.Run("unknown syntax", func(t *testing.T) {
		t.Parallel()
		url := edited(t, start(t).url, func(path, text string) string {
			if path == "/static/app.js" {
				return "const of the future" + text
			}
			return text
		})
		p := newTab(t, blocked)
		p.do(chromedp.Navigate(url))
		p.awaitOr(func() string { return "" }, text)
		p.expectException("SyntaxError")
	})
	t.Run("missing function", func(t *testing.T) {
		t.Parallel()
		p := newTab(t, blocked)
		if _, err := chromedp.Call(p.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: "delete AbortSignal.timeout"}); err != nil {
			t.Fatal(err)
		}
		p.do(chromedp.Navigate(start(t).url))
		p.awaitOr(func() string { return "" }, text)
		p.expectException("too old")
	})
}

// expectException checks that the page threw an exception that contains text.
func (p *tab) expectException(text string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.Contains(p.thrown, text) {
		p.t.Errorf("the page threw %q, want %q", p.thrown, text)
	}
	p.thrown = ""
}
