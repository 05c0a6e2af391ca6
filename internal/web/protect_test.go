package web

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

var (
	ok    = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	noLog = slog.New(slog.DiscardHandler)
	// debugOnly panics if something is logged at another level.
	debugOnly  = slog.New(slog.NewTextHandler(nil, nil))
	everywhere = &net.TCPAddr{IP: net.IPv6unspecified, Port: 5000}
	loopback   = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000}
)

// send returns h's response to a request. header has names, each followed by its value; Remote is the client's address.
func send(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		switch name, value := header[i], header[i+1]; name {
		case "Host":
			r.Host = value
		case "Remote":
			r.RemoteAddr = value
		default:
			r.Header.Add(name, value)
		}
	}
	h.ServeHTTP(w, r)
	return w
}

func TestHeaders(t *testing.T) {
	w := send(Protect(ok, "wss://ws.example https://sockjs.example", 0, everywhere, debugOnly), "GET", "/")
	for name, want := range map[string]string{
		"Content-Security-Policy": "script-src 'self' https://js.pusher.com; connect-src 'self' wss://ws.example " +
			"https://sockjs.example; default-src 'none'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
			"media-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"Referrer-Policy":        "no-referrer",
		"X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// Clicks are accepted only from pages of the server's own host, or of the host that a trusted proxy names. Rejected
// clicks are logged at debug level only.
func TestSameOrigin(t *testing.T) {
	for _, tt := range []struct {
		name    string
		proxies int
		header  []string
		want    int
	}{
		{"own page", 0, []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"own page, old browser", 0, []string{"Origin", "http://example.com"}, 200},
		{"a program", 0, nil, 200},
		{"another site, old browser", 0, []string{"Origin", "https://evil.example"}, 403},
		{"a proxy that adds port 443", 0, []string{"Origin", "https://example.com", "Host", "example.com:443"}, 200},
		{"a proxy that adds port 80", 0, []string{"Origin", "http://example.com", "Host", "example.com:80"}, 200},
		{"another port", 0, []string{"Origin", "http://example.com", "Host", "example.com:8080"}, 403},
		{"two proxies that change Host", 2, []string{"Origin", "https://a.example", "X-Forwarded-Host", "a.example, b.example"}, 200},
		{"X-Forwarded-Host without a proxy", 0, []string{"Origin", "https://a.example", "X-Forwarded-Host", "a.example"}, 403},
		{"another site, through a tunnel", 1, []string{"Origin", "https://b.example", "X-Forwarded-Host", "a.example"}, 403},
	} {
		var log bytes.Buffer
		debug := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w := send(Protect(ok, "", tt.proxies, everywhere, debug), "POST", "/", tt.header...)
		explained := strings.Contains(w.Body.String(), "Another site's page sent this request, or a reverse proxy")
		logged := strings.Contains(log.String(), "level=DEBUG")
		if rejected := tt.want == 403; w.Code != tt.want || explained != rejected || logged != rejected {
			t.Errorf("%s: status %d, want %d: %s; log %q", tt.name, w.Code, tt.want, w.Body, &log)
		}
		if w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s: the response has no security headers", tt.name)
		}
	}
}

// A server on a loopback address without a proxy rejects the names of other sites, against DNS rebinding.
func TestRejectRebinding(t *testing.T) {
	for _, tt := range []struct {
		at      *net.TCPAddr
		proxies int
		host    string
		want    int
	}{
		{loopback, 0, "LocalHost:5000", 200},
		{loopback, 0, "app.localhost:5000", 200},
		{loopback, 0, "[::1]:5000", 200},
		{loopback, 0, "evil.example:5000", 421},
		{loopback, 0, "127.0.0.1.evil.example:5000", 421},
		{loopback, 0, "evillocalhost", 421},
		{loopback, 0, "", 421},
		{loopback, 1, "app.example", 200},
		{everywhere, 0, "app.example", 200},
	} {
		w := send(Protect(ok, "", tt.proxies, tt.at, debugOnly), "GET", "/", "Host", tt.host)
		text := w.Body.String()
		explained := strings.Contains(text, "http://127.0.0.1:5000/") && strings.Contains(text, "TRUST_PROXY=1")
		if w.Code != tt.want || explained != (tt.want == 421) {
			t.Errorf("%+v: status %d, %s", tt, w.Code, text)
		}
	}
}

func TestConnectSources(t *testing.T) {
	for _, tt := range []struct{ socketURL, cluster, want string }{
		{"", "", ""},
		{"wss://ws-eu.pusher.com", "eu", "wss://ws-eu.pusher.com https://sockjs-eu.pusher.com"},
		{"wss://ws.example.org:80/a/b", "", "wss://ws.example.org:80"},
		{"wss://[::1]:80/a/b", "", "wss:"}, // a policy can't contain an IPv6 address
		{"ws://a_b", "", "ws:"},            // nor an underscore
	} {
		if got := ConnectSources(tt.socketURL, tt.cluster); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.socketURL, tt.cluster, got, tt.want)
		}
	}
}
