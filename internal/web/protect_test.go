package web

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

var (
	ok    = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok "+r.Host) })
	noLog = slog.New(slog.DiscardHandler)
)

// post returns h's response to a POST from an address.
func post(h http.Handler, from string, header ...string) *httptest.ResponseRecorder {
	return send(h, "POST", "http://example.com/pusher", from, header...)
}

// get returns h's response to a GET of path.
func get(h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	return send(h, "GET", path, "192.0.2.1:1", header...)
}

// send returns h's response to a request. header has names, each followed by its value.
func send(h http.Handler, method, url, from string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, nil)
	r.RemoteAddr = from
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHeaders(t *testing.T) {
	got := post(Protect(ok, "wss://ws.example https://sockjs.example", 0, "", noLog), "192.0.2.1:1").Header()
	policy := got.Get("Content-Security-Policy")
	for _, want := range []string{
		"default-src 'none';", "script-src 'self' https://js.pusher.com/8.6.0/;", "style-src 'self';",
		"connect-src 'self' wss://ws.example https://sockjs.example;", "img-src 'self' data:;", "font-src 'self';",
		"media-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'",
	} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if got.Get("X-Content-Type-Options") != "nosniff" || got.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("headers: %v", got)
	}
}

// A click is accepted from the page that the server's host, or a trusted proxy's, has sent.
func TestSameOrigin(t *testing.T) {
	tests := []struct {
		name    string
		proxies int
		header  []string
		want    int
	}{
		{"own page", 0, []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"own page, old browser", 0, []string{"Origin", "http://example.com"}, 200},
		{"a program", 0, nil, 200},
		{"another site", 0, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another subdomain", 0, []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"another site, old browser", 0, []string{"Origin", "https://evil.example"}, 403},
		{"a proxy that adds port 443", 0, []string{"Origin", "https://example.com", "Host", "example.com:443"}, 200},
		{"a proxy that adds port 80", 0, []string{"Origin", "http://example.com", "Host", "example.com:80"}, 200},
		{"plain HTTP at port 443", 0, []string{"Origin", "http://example.com:443", "Host", "example.com:443"}, 200},
		{"another port", 0, []string{"Origin", "http://example.com", "Host", "example.com:8080"}, 403},
		{"a tunnel that changes Host", 1, []string{"Origin", "https://name.tunnel.example", "X-Forwarded-Host", "name.tunnel.example"}, 200},
		{"two proxies that change Host", 2, []string{"Origin", "https://app.example", "X-Forwarded-Host", "app.example, inner.example"}, 200},
		{"a tunnel that changes Origin", 1, []string{"Origin", "http://localhost:5000", "Sec-Fetch-Site", "same-origin", "X-Forwarded-Host", "name.tunnel.example"}, 200},
		{"X-Forwarded-Host without a proxy", 0, []string{"Origin", "https://evil.example", "X-Forwarded-Host", "evil.example"}, 403},
		{"another site through a tunnel", 1, []string{"Origin", "https://evil.example", "X-Forwarded-Host", "name.tunnel.example"}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			debug := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			w := post(Protect(ok, "", tt.proxies, "", debug), "192.0.2.1:1", tt.header...)
			if w.Code != tt.want || (log.Len() > 0) != (tt.want == 403) || strings.Contains(log.String(), "level=INFO") {
				t.Errorf("status %d, want %d; log %q", w.Code, tt.want, &log)
			}
			if tt.want == 403 && !regexp.MustCompile("Another site.*Host header").MatchString(w.Body.String()) {
				t.Errorf("the response names only one cause: %s", w.Body)
			}
			if w.Header().Get("Content-Security-Policy") == "" {
				t.Error("the response has no security headers")
			}
		})
	}
}

func TestRejectRebinding(t *testing.T) {
	tests := []struct {
		host string
		want int
	}{
		{"localhost:5000", 200},
		{"LocalHost:5000", 200},
		{"app.localhost:5000", 200},
		{"127.0.0.1:5000", 200},
		{"[::1]:5000", 200},
		{"192.0.2.1:5000", 200},
		{"evil.example:5000", 421},
		{"127.0.0.1.evil.example:5000", 421},
		{"localhost.evil.example", 421},
		{"evillocalhost", 421},
		{"evil.example:localhost", 421},
		{"localhost@evil.example", 421},
		{"", 421},
	}
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			w := post(Protect(ok, "", 0, "http://127.0.0.1:5000/", noLog), "127.0.0.1:1", "Host", tt.host)
			if w.Code != tt.want {
				t.Errorf("status %d, want %d", w.Code, tt.want)
			}
			if tt.want == 421 && !regexp.MustCompile("http://127.0.0.1:5000/.*TRUST_PROXY=1").MatchString(w.Body.String()) {
				t.Errorf("the response does not say what to do: %s", w.Body)
			}
		})
	}
	if w := post(Protect(ok, "", 0, "", noLog), "192.0.2.1:1", "Host", "app.example"); w.Code != 200 {
		t.Errorf("not on a loopback address: status %d", w.Code)
	}
}
