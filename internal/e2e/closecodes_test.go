// Tests the close codes that a browser's JavaScript receives from the embedded server.
package e2e

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/channels"

	"github.com/chromedp/chromedp"
)

// Chromium receives each close code. For a close that violates RFC 6455, it would report 1006.
func TestCloseCodesInChromium(t *testing.T) {
	script, err := os.ReadFile("testdata/close-codes.js")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t)
	page := newTab(t, blocked)
	page.open(p.url, "connected")
	page.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("(%s)(location.origin, 'local').then((text) => { window.result = text; }); undefined", script)))
	page.await("!!window.result")
	if got, err := chromedp.Run(page.ctx, chromedp.Evaluate[string]("window.result")); err != nil || got != "all closed as expected" {
		t.Errorf("%s %v", got, err)
	}
	page.do(chromedp.Evaluate[chromedp.Void]("window.last.then((text) => { window.stopped = text; }); undefined"))
	p.signal(syscall.SIGTERM)
	page.await("!!window.stopped")
	if got, err := chromedp.Run(page.ctx, chromedp.Evaluate[string]("window.stopped")); err != nil || got != `{"code":4200,"wasClean":true,"error":false}` {
		t.Errorf("after SIGTERM: %s %v", got, err)
	}
}

// closeCode is JavaScript that opens a WebSocket at a URL and resolves to its close code and
// whether the close was clean.
const closeCode = `new Promise((resolve) => {
	new WebSocket(%q).onclose = ({ code, wasClean }) => resolve(code + ' ' + wasClean);
})`

// A connection without activity is closed with 4201.
func TestNoPongInChromium(t *testing.T) {
	t.Parallel()
	p := newTab(t, blocked)
	url := startImpatient(t)
	p.do(chromedp.Navigate(url + "/app/local"))
	p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(closeCode, "ws"+url[len("http"):]+"/app/local?protocol=7") + ".then((text) => { window.result = text; }); undefined"))
	p.await("window.result === '4201 true'")
}

// startImpatient starts an embedded server that closes a connection after 1 s without activity, and returns its URL.
func startImpatient(t testing.TB) string {
	server := channels.New("1", "local", "secret", slog.New(slog.DiscardHandler))
	server.PingAfter, server.PongTimeout = time.Second, 0 // closes although the browser sends a pong
	web := httptest.NewServer(server)
	t.Cleanup(func() { web.Close(); server.Close() })
	return web.URL
}

// socketURL returns the URL of the embedded server's WebSockets.
func (p *program) socketURL() string { return "ws" + p.url[len("http"):] + "/app/local?protocol=7" }
