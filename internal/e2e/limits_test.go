// Tests that the program rejects odd requests and those from other sites' pages.
package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

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
