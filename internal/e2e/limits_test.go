// Proves what strangers meet: the limit on connections, and the refusal of other sites'
// pages.
package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/chromedp"
)

// With few file descriptors, more clients are told to come back later (4100) rather than
// left without a response, and the page is still served.
func TestFewFileDescriptors(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the limit on open files is read on Linux only")
	}
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ulimit -n 256; exec "$0" -addr 127.0.0.1:0`, binary)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"RATE_LIMIT=0"}
	app := startCommand(t, cmd)
	refused := 0
	for range 200 {
		client, err := pushertest.Dial(app.url, "local")
		if err != nil {
			t.Fatal(err)
		}
		defer client.NetConn().Close()
		if strings.Contains(<-client.Messages, `"code":4100`) {
			refused++
		}
	}
	if refused != 200-256/2 {
		t.Errorf("%d of 200 clients were refused, want those beyond half of 256", refused)
	}
	pushertest.Request(t, "GET", app.url)
}

// The page of another site points its own name at 127.0.0.1, to be of the same origin as
// the program of the person who has it open; or it opens a WebSocket as what it is.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it needs a browser; -short leaves it out")
	}
	app := start(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer other.Close()
	chromiumContext, stop, err := launch(chromedp.Flag("host-resolver-rules", "MAP evil.example 127.0.0.1"))
	if err != nil {
		skip(t, chromium, err)
	}
	defer stop()
	evil := func(url string) string { return strings.Replace(url, "127.0.0.1", "evil.example", 1) }

	p := newTabIn(t, chromiumContext, blocked)
	p.do(chromedp.Navigate(evil(app.url)))
	p.await("document.body.textContent.includes('TRUST_PROXY=1')")
	p.do(chromedp.Navigate(evil(other.URL)))
	socket := "ws" + strings.TrimPrefix(app.url, "http") + "/app/local?protocol=7"
	p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("new WebSocket(%q).onclose = ({ code, wasClean }) => { window.result = code + ' ' + wasClean; }; undefined", socket)))
	p.await("window.result === '4009 true'")
	if !strings.Contains(app.logged(), evil(other.URL)) {
		t.Error("the log does not name the refused origin")
	}
}
