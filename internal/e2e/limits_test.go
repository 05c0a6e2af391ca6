// Tests that the program limits connections, and rejects odd requests and those from other
// sites' pages.
package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/chromedp"
)

// With few file descriptors, the server asks excess clients to reconnect later (4100) instead
// of leaving them without a response, and still serves the page.
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

// Only a trusted proxy may forward requests for other hosts, and report that a request came
// over TLS.
func TestOtherHosts(t *testing.T) {
	t.Parallel()
	for trust, want := range map[string]int{"": http.StatusMisdirectedRequest, "1": http.StatusOK} {
		app := start(t, "TRUST_PROXY="+trust)
		for _, method := range []string{"GET /", "GET /static/app.js", "GET /healthz", "POST /pusher"} {
			method, path, _ := strings.Cut(method, " ")
			r, err := http.NewRequest(method, app.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = "evil.example"
			r.Header.Set("X-Forwarded-Proto", "https")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if hsts := resp.Header.Get("Strict-Transport-Security") != ""; resp.StatusCode != want || hsts != (trust == "1") {
				t.Errorf("TRUST_PROXY=%s %s %s: status %d, want %d; HSTS %v", trust, method, path, resp.StatusCode, want, hsts)
			}
		}
	}
}

// Without TRUST_PROXY, a client can't use a proxy's headers to avoid the rate limit or to set HSTS.
func TestProxyHeadersAreNotTrusted(t *testing.T) {
	for _, trust := range []string{"0", "1"} {
		app := start(t, "RATE_LIMIT=0.001", "TRUST_PROXY="+trust)
		pushertest.Request(t, "POST", app.url+"/pusher", "X-Forwarded-For", "192.0.2.1")
		resp, _ := pushertest.Request(t, "POST", app.url+"/pusher", "X-Forwarded-For", "192.0.2.2", "X-Forwarded-Proto", "https")
		if trusted := resp.StatusCode == http.StatusOK; trusted != (trust == "1") {
			t.Errorf("TRUST_PROXY=%s: a click with another X-Forwarded-For got status %d", trust, resp.StatusCode)
		}
		if hsts := resp.Header.Get("Strict-Transport-Security"); (hsts != "") != (trust == "1") {
			t.Errorf("TRUST_PROXY=%s: Strict-Transport-Security is %q", trust, hsts)
		}
	}
}

// RATE_LIMIT also limits the WebSockets of a client address, unless it is 0.
func TestWebSocketsPerClient(t *testing.T) {
	for _, limit := range []string{"0", "1"} {
		app := start(t, "RATE_LIMIT="+limit)
		refused := ""
		for range 501 {
			client, err := pushertest.Dial(app.url, "local")
			if err != nil {
				t.Fatal(err)
			}
			defer client.NetConn().Close()
			if m := client.Next(t); !strings.Contains(m, "connection_established") {
				refused = m
			}
		}
		if (refused != "") != (limit == "1") || limit == "1" && !strings.Contains(refused, "Your network address has too many connections") {
			t.Errorf("RATE_LIMIT=%s: of 501 connections, one received %q", limit, refused)
		}
	}
}

// While many clicks are in flight, further clicks are rejected at once.
func TestClicksInFlightAreLimited(t *testing.T) {
	upstream := pushertest.NewServer(t)
	release := make(chan bool)
	releaseAll := sync.OnceFunc(func() { close(release) })
	defer releaseAll()
	upstream.Override(func(w http.ResponseWriter, r *http.Request) { <-release; io.WriteString(w, "{}") })
	app := start(t, "PUSHER_URL="+upstream.PusherURL, "RATE_LIMIT=0")
	var clicks pushertest.Clicks
	var running sync.WaitGroup
	for range 300 {
		running.Go(func() { clicks.Click(app.url) })
	}
	pushertest.WaitFor(t, "a click to be rejected", func() bool { return clicks.Count("503 Too many clicks at once") > 0 })
	releaseAll()
	running.Wait()
	if ok, rejected := clicks.Count("200 ok"), clicks.Count("503 Too many clicks at once"); ok < 256 || ok+rejected != 300 {
		t.Errorf("%v, want at least 256 ok, and the rest rejected", clicks.Responses())
	}
}

// Another site's page can't read the app by pointing its own name at 127.0.0.1 (DNS rebinding),
// and can't open a WebSocket from its own origin.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs a browser; skipped with -short")
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
	p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(closeCode, app.socketURL()) + ".then((text) => { window.result = text; }); undefined"))
	p.await("window.result === '4009 true'")
	if !strings.Contains(app.logged(), evil(other.URL)) {
		t.Error("the log does not name the refused origin")
	}
}

// Unusual requests get the right status, and each error is short plain text.
func TestOddRequests(t *testing.T) {
	app := start(t, "TRUST_PROXY=1") // accepts any Host
	tests := []struct {
		request string // the request line, and headers if any
		status  int
		header  string // a header that the response must have
	}{
		{"GET / HTTP/1.0", 200, ""},
		{"POST /pusher HTTP/1.0", 200, ""},
		{"GET /static/app.js HTTP/1.0\r\nConnection: keep-alive", 200, "Connection: keep-alive"},
		{"GET / HTTP/1.1", 400, ""}, // without Host
		{"GET / HTTP/3.0", 505, ""},
		{"GET /", 400, ""},
		{"OPTIONS / HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"OPTIONS /pusher HTTP/1.0", 405, "Allow: POST"},
		{"TRACE / HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"PROPFIND /static/app.js HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"get / HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"G@T / HTTP/1.0", 400, ""},
		{"CONNECT example.org:443 HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"GET http://elsewhere.example/app.cfg HTTP/1.0", 404, ""},
		{"GET /static HTTP/1.0", 307, "Location: /static/"},
		{"GET /static/ HTTP/1.0", 404, ""},
		{"GET /static/. HTTP/1.0", 307, "Location: /static/"},
		{"GET /static/../../app.cfg HTTP/1.0", 307, "Location: /app.cfg"},
		{"GET /static/..%2f..%2fmain.go HTTP/1.0", 404, ""},
		{"GET /static/..%5c..%5cmain.go HTTP/1.0", 404, ""},
		{"GET /static/%00app.js HTTP/1.0", 404, ""},
		{"GET /static/app.js/ HTTP/1.0", 404, ""},
		{"GET /static/APP.JS HTTP/1.0", 404, ""},
		{"GET //elsewhere.example/ HTTP/1.0", 307, "Location: /elsewhere.example/"},
		{"GET /%2f%2felsewhere.example HTTP/1.0", 404, ""},
		{"GET /\\elsewhere.example HTTP/1.0", 404, ""},
		{"GET /.env HTTP/1.0", 404, ""},
		{"GET /.git/config HTTP/1.0", 404, ""},
		{"GET /debug/pprof/ HTTP/1.0", 404, ""},
		{"GET /apps/1/channels HTTP/1.0", 404, ""},
		{"GET /app HTTP/1.0", 307, "Location: /app/"},
		{"GET /app/ HTTP/1.0", 404, ""},
		{"GET /app/local/more HTTP/1.0", 404, ""},
		{"POST /pusher HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nConnection: close", 501, ""},
		{"POST /pusher HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nConnection: close", 400, ""},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.request, "\r\n", "; "), func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(app.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, tt.request+"\r\n\r\n")
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			name, value, _ := strings.Cut(tt.header, ": ")
			if resp.StatusCode != tt.status || name != "" && resp.Header.Get(name) != value {
				t.Errorf("status %d, %v; want %d, %s", resp.StatusCode, resp.Header, tt.status, tt.header)
			}
			if tt.status >= 400 && (len(body) > 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain")) {
				t.Errorf("the error is %s: %q", resp.Header.Get("Content-Type"), body)
			}
		})
	}
}
