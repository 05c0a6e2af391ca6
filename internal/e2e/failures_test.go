// Tests that the page explains what went wrong.
package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/chromedp"
	"github.com/lxzan/gws"
)

// The page shows why a click failed, until one succeeds.
func TestPageSaysWhatFailed(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := start(t, "PUSHER_URL="+upstream.PusherURL)
	p := newTab(t, served)
	p.open(app.url, "connected") // to the app, upstream is a self-hosted server
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "API call failed since (daily) message quota exceeded", http.StatusForbidden)
	})
	p.click()
	p.awaitProblem("message quota is used up")
	upstream.Override(nil)
	p.click()
	p.wantAlert()
	p.await("document.getElementById('problem').textContent === ''")

	const post = "document.querySelector('.push').dataset.post"
	p.do(chromedp.Evaluate[chromedp.Void](post + " = '/wave'; undefined")) // a new button, without a handler
	p.click()
	p.awaitProblem("The server has no handler for /wave.")
	p.do(chromedp.Evaluate[chromedp.Void](post + " = '/pusher'; undefined"))

	if err := app.stop(); err != nil {
		t.Fatal(err)
	}
	p.click()
	p.awaitProblem("The server can't be reached")
}

// The page shows a proxy's 404 as it is, and doesn't take it for a missing handler.
func TestPageSaysThatProxyFailed(t *testing.T) {
	target, err := url.Parse(start(t).url)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.NotFound(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	p := newTab(t, served)
	p.open(proxy.URL, "connected")
	p.click()
	p.awaitProblem("404 page not found")
}

// The page explains that the server doesn't know the page's key.
func TestPageSaysThatKeyIsUnknown(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := start(t, "PUSHER_URL="+strings.Replace(upstream.PusherURL, "testkey", "otherkey", 1))
	for _, cdn := range bothClients {
		p := newTab(t, cdn)
		p.open(app.url, "refused")
		p.await("document.getElementById('status').textContent.includes('Refused (code 4001): App key \"otherkey\" not in this cluster. Did you forget to specify the cluster? The server')")
	}
}

// The page explains close codes.
func TestPageExplainsCloseCodes(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := start(t, "PUSHER_URL="+upstream.PusherURL)
	for _, tt := range []struct {
		code        int
		state, text string
	}{
		{4004, "refused", "over its connection quota"},
		{4100, "busy", "isn't accepting connections right now (code 4100): no. Trying"},
		{4123, "busy", "(code 4123): no."},
		{4009, "refused", "Refused (code 4009): no. Reload"},
	} {
		upgrader := gws.NewUpgrader(gws.BuiltinEventHandler{}, nil)
		upstream.Override(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Origin")
			conn, err := upgrader.Upgrade(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			conn.WriteString(fmt.Sprintf(`{"event":"pusher:error","data":{"code":%d,"message":"no"}}`, tt.code))
			conn.WriteClose(uint16(tt.code), []byte("no"))
		})
		for _, cdn := range bothClients {
			t.Run(fmt.Sprint(tt.code, " ", cdn), func(t *testing.T) {
				p := newTab(t, cdn)
				p.open(app.url, tt.state)
				p.await(fmt.Sprintf("document.getElementById('status').textContent.includes(%q)", tt.text))
			})
		}
	}
}

// The page shows why the server rejected its subscription: in the server's words or, if pusher-js got no authorization
// for a private channel, in those of pusher-js.
func TestPageSaysThatSubscriptionIsRejected(t *testing.T) {
	app := start(t)
	for _, tt := range []struct {
		channel string
		library cdn
		text    string
	}{
		{"a b", served, `The server rejected the subscription to a b: Invalid channel name "a b": use 1 to 164`},
		{"a b", blocked, `The server rejected the subscription to a b: Invalid channel name "a b": use 1 to 164`},
		{"private-a", served, "The server rejected the subscription to private-a: Unable to retrieve auth string"},
		{"private-a", blocked, "The server rejected the subscription to private-a (code 4009): This server has public channels only: for private"},
	} {
		t.Run(tt.channel+" "+tt.library.String(), func(t *testing.T) {
			attribute := fmt.Sprintf("data-channel=%q", sampleEvent(t).channel)
			url := edited(t, app.url, func(path, text string) string {
				return strings.Replace(text, attribute, fmt.Sprintf("data-channel=%q", tt.channel), 1)
			})
			p := newTab(t, tt.library)
			p.open(url, "refused")
			p.await(fmt.Sprintf("document.getElementById('status').textContent.includes(%q)", tt.text))
		})
	}
}

// A page that was loaded over HTTPS can't connect to a ws:// address, and says so.
func TestPageSaysThatHTTPSNeedsWSS(t *testing.T) {
	t.Parallel()
	upstream := pushertest.NewServer(t)
	app := start(t, "PUSHER_URL="+upstream.PusherURL, "TRUST_PROXY=1")
	target, err := url.Parse(withTimes(t, app.url, map[string]int{"UNAVAILABLE_MS": 500}))
	if err != nil {
		t.Fatal(err)
	}
	page := pushertest.NewTLSServer(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	p := newTab(t, blocked)
	p.open(page.URL, "blocked")
	p.await(fmt.Sprintf("document.getElementById('status').textContent.includes('can connect only to a wss:// address, but the server\\'s address is ws://%s. The site owner should set PUSHER_SOCKET_URL')", upstream.HTTP.Listener.Addr()))
}

// If WebSockets are blocked and there is no other transport, the page says so.
func TestPageSaysThatWebSocketsAreBlocked(t *testing.T) {
	t.Parallel() // each client takes 10 s to give up
	upstream := pushertest.NewServer(t)
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Blocked by a proxy.", http.StatusForbidden)
	})
	app := start(t, "PUSHER_URL="+upstream.PusherURL)
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			p := newTab(t, cdn)
			p.open(app.url, "blocked")
			p.await("document.getElementById('status').textContent.includes('may be blocking WebSockets')")
			p.await("document.getElementById('status').textContent.includes('might not accept pages from ' + location.origin)")
		})
	}
}
