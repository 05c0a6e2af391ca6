// Tests the close codes that a browser's JavaScript receives from the embedded server.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

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
	app := startWithShortTimeouts(t)
	p.do(chromedp.Navigate(app.url + "/healthz"))
	p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(closeCode, app.socketURL()) + ".then((text) => { window.result = text; }); undefined"))
	p.await("window.result === '4201 true'")
}

// socketURL returns the URL of the embedded server's WebSockets.
func (p *program) socketURL() string { return "ws" + p.url[len("http"):] + "/app/local?protocol=7" }

// startWithShortTimeouts builds the program with other constants in channels/server.go, and starts
// it. Its server sends no pings, and closes a connection after 1 s without activity.
func startWithShortTimeouts(t testing.TB) *program {
	t.Helper()
	source, err := filepath.Abs("../channels/server.go")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"sweepInterval": "100 * time.Millisecond", "pingAfter": "time.Hour", "dropAfter": "time.Second"} {
		line := regexp.MustCompile(`(\t` + name + ` += ).*`)
		if !line.Match(code) {
			t.Fatalf("%s has no %s", source, name)
		}
		code = line.ReplaceAll(code, []byte("${1}"+value))
	}
	dir := t.TempDir()
	changed, overlay, binary := filepath.Join(dir, "server.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "app")
	replace, _ := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	for file, content := range map[string][]byte{changed: code, overlay: replace} {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", binary, "pusher-sample").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(binary, "-addr", "127.0.0.1:0")
	cmd.Dir, cmd.Env = dir, []string{}
	return startCommand(t, cmd)
}
