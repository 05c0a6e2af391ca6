package guard

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

var (
	ok    = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	noLog = slog.New(slog.DiscardHandler)
)

// post returns h's response to a POST from an address.
func post(h http.Handler, from string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://example.com/pusher", nil)
	r.RemoteAddr = from
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHeaders(t *testing.T) {
	h := Headers(false, []string{"wss://ws.example"}, ok)
	got := post(h, "192.0.2.1:1").Header()
	policy := got.Get("Content-Security-Policy")
	for _, want := range []string{
		"default-src 'none'", "script-src 'self' https://js.pusher.com/8.6.0/;", "connect-src 'self' wss://ws.example;",
		"frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'",
	} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy has an unsafe source: %s", policy)
	}
	if got.Get("X-Content-Type-Options") != "nosniff" || got.Get("Referrer-Policy") != "no-referrer" || got.Get("Permissions-Policy") == "" {
		t.Errorf("headers: %v", got)
	}
}

func TestStrictTransportSecurity(t *testing.T) {
	tests := []struct {
		name       string
		trustProxy bool
		proto      string
		want       bool
	}{
		{"TLS at a trusted proxy", true, "https", true},
		{"no TLS at a trusted proxy", true, "http", false},
		{"trusted proxy that doesn't say", true, "", false},
		{"header without a trusted proxy", false, "https", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := post(Headers(tt.trustProxy, nil, ok), "192.0.2.1:1", "X-Forwarded-Proto", tt.proto)
			if got := w.Header().Get("Strict-Transport-Security"); (got != "") != tt.want {
				t.Errorf("Strict-Transport-Security is %q; want it set: %v", got, tt.want)
			}
		})
	}
}

func TestSameOrigin(t *testing.T) {
	tests := []struct {
		name   string
		header []string
		want   int
	}{
		{"own page", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"own page, old browser", []string{"Origin", "http://example.com"}, 200},
		{"a program", nil, 200},
		{"another site", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"another subdomain", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"another site, old browser", []string{"Origin", "https://evil.example"}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			w := post(SameOrigin(slog.New(slog.NewTextHandler(&log, nil)), ok), "192.0.2.1:1", tt.header...)
			if w.Code != tt.want || (log.Len() > 0) != (tt.want == 403) {
				t.Errorf("status %d, want %d; log %q", w.Code, tt.want, &log)
			}
			if tt.want == 403 && !(strings.Contains(w.Body.String(), "Another site") && strings.Contains(w.Body.String(), "a reverse proxy changed the Host header")) {
				t.Errorf("the response names only one cause: %s", w.Body)
			}
		})
	}
}

// The log names the origin and the host, cut to 100 bytes each.
func TestSameOriginLog(t *testing.T) {
	var log bytes.Buffer
	r := httptest.NewRequest("POST", "/pusher", nil)
	r.Host = strings.Repeat("h", 10_000)
	r.Header.Set("Origin", "https://"+strings.Repeat("o", 10_000))
	SameOrigin(slog.New(slog.NewTextHandler(&log, nil)), ok).ServeHTTP(httptest.NewRecorder(), r)
	if want := " origin=https://" + strings.Repeat("o", 92) + " host=" + strings.Repeat("h", 100) + "\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("the log: %s", &log)
	}
}

func TestRejectRebinding(t *testing.T) {
	tests := []struct {
		host string
		want int
	}{
		{"localhost", 200},
		{"localhost:5000", 200},
		{"LocalHost:5000", 200},
		{"127.0.0.1:5000", 200},
		{"127.8.8.8", 200},
		{"[::1]:5000", 200},
		{"[::1]", 200},
		{"192.0.2.1:5000", 200},
		{"evil.example:5000", 421},
		{"evil.example", 421},
		{"127.0.0.1.evil.example:5000", 421},
		{"localhost.evil.example", 421},
		{"evil.example:localhost", 421},
		{"localhost@evil.example", 421},
		{"", 421},
		{strings.Repeat("x", 10_000), 421},
	}
	for _, tt := range tests {
		t.Run(tt.host[:min(len(tt.host), 40)], func(t *testing.T) {
			var log bytes.Buffer
			r := httptest.NewRequest("GET", "/", nil)
			r.Host = tt.host
			w := httptest.NewRecorder()
			RejectRebinding(slog.New(slog.NewTextHandler(&log, nil)), ok).ServeHTTP(w, r)
			if w.Code != tt.want || strings.Contains(w.Body.String(), "TRUST_PROXY=1") != (tt.want == 421) {
				t.Errorf("status %d, want %d; %q", w.Code, tt.want, w.Body)
			}
			if (log.Len() > 0) != (tt.want == 421) || log.Len() > 400 {
				t.Errorf("the log: %s", &log)
			}
		})
	}
}

func TestRecover(t *testing.T) {
	var log bytes.Buffer
	h := Recover(slog.New(slog.NewTextHandler(&log, nil)), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		panic("oh no")
	}))
	if w := post(h, "192.0.2.1:1"); w.Code != 500 || strings.Contains(w.Body.String(), "oh no") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "oh no") || !strings.Contains(log.String(), "guard_test.go") {
		t.Errorf("the log lacks the panic or its stack: %s", &log)
	}
}
