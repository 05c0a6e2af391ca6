// Tests foreign clients: Pusher's own libraries, Firefox, and the close codes that browsers receive.
package e2e

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/channels"
)

// Pusher's Node client triggers events over HTTP, and two pusher-js clients in Node receive them.
func TestNodeClients(t *testing.T) {
	t.Parallel()
	node(t, "node-clients.js", "all received", start(t).pusherURL())
}

// Every alert appears in two tabs of Firefox, one of them hidden. Its scripts receive the close codes.
func TestFirefox(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a browser; skipped with -short")
	}
	path := lookPath(t, firefox, "firefox-esr", "firefox")
	node(t, "firefox.js", "all alerted\nclosed as expected\n4009 true",
		"FIREFOX="+path, "URL="+start(t, "RATE_LIMIT=0").url, "IMPATIENT="+startImpatient(t),
		"MESSAGE="+sampleEvent(t).message, "PUSHER_JS="+filepath.Join(npmModules(t), "pusher-js/dist/web/pusher.min.js"))
}

// Chromium receives each close code. For a close that violates RFC 6455, it would report 1006.
func TestCloseCodesInChromium(t *testing.T) {
	script := must(os.ReadFile("testdata/close-codes.js"))
	app, impatient := start(t), startImpatient(t)
	p := newTab(t, blocked)
	p.navigate(impatient + "/app/local") // an origin without a Content-Security-Policy
	p.await("document.body?.innerText.includes('WebSocket')")
	p.js("window.stopped = " + fmt.Sprintf(closeCode, app.socketURL()))
	if got := evaluate[string](p, fmt.Sprintf("(%s)(%q, %q)", script, app.url, impatient)); got != "closed as expected" {
		t.Error(got)
	}
	app.signal(syscall.SIGTERM)
	if got := evaluate[string](p, "stopped"); got != "4200 true" {
		t.Errorf("after SIGTERM: %s, want 4200 true", got)
	}
}

// closeCode is JavaScript that opens a WebSocket and resolves to its close code and whether the close was clean.
const closeCode = `new Promise((resolve) => {
	new WebSocket(%q).onclose = ({ code, wasClean }) => resolve(code + ' ' + wasClean);
})`

// socketURL returns the URL of the embedded server's WebSockets.
func (p *program) socketURL() string { return "ws" + p.url[len("http"):] + "/app/local?protocol=7" }

// startImpatient starts an embedded server that closes a connection after 1 s without activity, and returns its URL.
func startImpatient(t testing.TB) string {
	server := channels.New("1", "local", "secret", slog.New(slog.DiscardHandler))
	server.PingAfter, server.PongTimeout = time.Second, 0 // closes although the browser sends a pong
	t.Cleanup(server.Close)
	return serve(t, server)
}

// Another site's page can't read the app by pointing its own name at 127.0.0.1 (DNS rebinding), and can't open a
// WebSocket from its own origin.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	app := start(t)
	evil := func(url string) string { return strings.Replace(url, "127.0.0.1", "evil.example", 1) }
	p := newTab(t, blocked)
	p.navigate(evil(app.url))
	p.await("document.body?.textContent.includes('TRUST_PROXY=1')")
	p.navigate(evil(serve(t, http.NotFoundHandler())))
	p.await("document.body?.textContent.includes('404 page not found')")
	if got := evaluate[string](p, fmt.Sprintf(closeCode, app.socketURL())); got != "4009 true" {
		t.Errorf("the WebSocket was closed with %s, want 4009 true", got)
	}
}
