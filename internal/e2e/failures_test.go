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
		p.await("document.getElementById('status').textContent.includes('4001')")
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
		{4100, "busy", "isn't accepting connections right now (code 4100: no)"},
		{4123, "busy", "(code 4123: no)"},
		{4009, "refused", "might not accept pages from"},
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
