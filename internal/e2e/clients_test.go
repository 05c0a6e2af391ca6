// Tests third-party clients: Pusher's own libraries, Firefox, and the close codes that browsers receive.
package e2e

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
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
	path := lookPath(t, "Firefox (Debian package firefox-esr)", "firefox-esr", "firefox")
	node(t, "firefox.js", "all alerted\nclosed as expected\nclosed as expected",
		"FIREFOX="+path, "URL="+start(t, "RATE_LIMIT=0").url, "IMPATIENT="+startImpatient(t),
		"MESSAGE="+message, "PUSHER_JS="+filepath.Join(npmModules(t), "pusher-js/dist/web/pusher.min.js"))
}

// Chromium receives each close code. For a close that violates RFC 6455, it would report 1006.
func TestCloseCodesInChromium(t *testing.T) {
	script := must(os.ReadFile("testdata/close-codes.js"))
	app, impatient := start(t), startImpatient(t)
	opaque := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "sandbox allow-scripts") // its origin is null
	}))
	p := newTab(t, blocked)
	for _, url := range []string{opaque + "/", impatient + "/app/local"} {
		p.navigate(url)
		p.await("location.href === '" + url + "'")
		if got := evaluate[string](p, fmt.Sprintf("(%s)(%q, %q)", script, app.url, impatient)); got != "closed as expected" {
			t.Error(got)
		}
	}
	p.js(fmt.Sprintf("socket = new WebSocket(%q); socket.onclose = (e) => { stopped = e.code + ' ' + e.wasClean; }",
		app.socketURL()))
	p.await("socket.readyState === WebSocket.OPEN")
	app.signal(syscall.SIGTERM)
	p.await("stopped === '4200 true'")
}

// startImpatient starts an embedded server that closes a connection after 1 s without activity, and returns its URL.
// Its responses have no Content-Security-Policy.
func startImpatient(t testing.TB) string {
	server := channels.New("1", "local", "secret", slog.New(slog.DiscardHandler))
	server.PingAfter, server.PongTimeout = time.Second, 0 // closes although the browser sends a pong
	t.Cleanup(server.Close)
	return serve(t, server)
}
