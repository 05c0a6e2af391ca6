package guard

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var ok = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })

// ask has h answer a POST from an address.
func ask(h http.Handler, from string, header ...string) *httptest.ResponseRecorder {
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
	h := Headers([]string{"https://js.example"}, []string{"wss://ws.example"}, ok)
	got := ask(h, "192.0.2.1:1").Header()
	policy := got.Get("Content-Security-Policy")
	for _, want := range []string{
		"default-src 'none'", "script-src 'self' https://js.example;", "connect-src 'self' wss://ws.example;",
		"frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'",
	} {
		if !strings.Contains(policy, want) {
			t.Errorf("no %s in %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("unsafe: %s", policy)
	}
	if got.Get("X-Content-Type-Options") != "nosniff" || got.Get("Referrer-Policy") != "no-referrer" || got.Get("Permissions-Policy") == "" {
		t.Errorf("headers: %v", got)
	}
	if got.Get("Strict-Transport-Security") != "" {
		t.Error("HSTS without TLS")
	}
	if ask(h, "192.0.2.1:1", "X-Forwarded-Proto", "https").Header().Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS behind a proxy's TLS")
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.TLS = &tls.ConnectionState{}
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Header().Get("Strict-Transport-Security") == "" {
		t.Error("no HSTS with TLS")
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
		{"a sibling", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"another site, old browser", []string{"Origin", "https://evil.example"}, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if w := ask(SameOrigin(ok), "192.0.2.1:1", tt.header...); w.Code != tt.want {
				t.Errorf("status %d, want %d", w.Code, tt.want)
			}
		})
	}
}

func TestAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which sees a request that waits for ever
		inside, leave := make(chan bool), make(chan bool)
		h := AtMost(2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inside <- true
			<-leave
		}))
		answered := make(chan int)
		for range 2 {
			go func() { answered <- ask(h, "192.0.2.1:1").Code }()
			<-inside
		}
		if w := ask(h, "192.0.2.1:1"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("one too many: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
		leave <- true
		<-answered // now a place is free
		go func() { answered <- ask(h, "192.0.2.1:1").Code }()
		<-inside
		close(leave)
		if a, b := <-answered, <-answered; a != 200 || b != 200 {
			t.Errorf("status %d and %d, want 200", a, b)
		}
	})
}

func TestRecover(t *testing.T) {
	var log bytes.Buffer
	h := Recover(slog.New(slog.NewTextHandler(&log, nil)), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		panic("oh no")
	}))
	if w := ask(h, "192.0.2.1:1"); w.Code != 500 || strings.Contains(w.Body.String(), "oh no") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "oh no") || !strings.Contains(log.String(), "guard_test.go") {
		t.Errorf("the log has not the panic and its stack: %s", &log)
	}
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := RateLimit(5, false, ok)
		for i := range 10 {
			if w := ask(h, "192.0.2.1:1"); w.Code != 200 {
				t.Fatalf("click %d of a burst: %d", i, w.Code)
			}
		}
		if w := ask(h, "192.0.2.1:2"); w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "Wait a moment") {
			t.Errorf("beyond the burst: %d, Retry-After %q, %q", w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if w := ask(h, "192.0.2.2:1"); w.Code != 200 {
			t.Errorf("another address: %d", w.Code)
		}
		time.Sleep(time.Second)
		for i := range 6 {
			if w := ask(h, "192.0.2.1:1"); (w.Code == 200) != (i < 5) {
				t.Errorf("a second later, click %d: %d", i, w.Code)
			}
		}
	})
}

func TestNoRateLimit(t *testing.T) {
	h := RateLimit(0, false, ok)
	for range 1000 {
		if w := ask(h, "192.0.2.1:1"); w.Code != 200 {
			t.Fatal(w.Code)
		}
	}
}

func TestClientAddress(t *testing.T) {
	const xff = "X-Forwarded-For"
	tests := []struct {
		name    string
		from    string
		proxied bool
		header  []string
		want    string
	}{
		{"IPv4", "192.0.2.1:80", false, nil, "192.0.2.1/32"},
		{"IPv6", "[2001:db8:1:2:3::4]:80", false, nil, "2001:db8:1:2::/64"},
		{"IPv6 with a zone", "[fe80::1%eth0]:80", false, nil, "fe80::/64"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:80", false, nil, "192.0.2.1/32"},
		{"header without a proxy", "192.0.2.1:80", false, []string{xff, "198.51.100.1"}, "192.0.2.1/32"},
		{"proxied", "10.0.0.1:80", true, []string{xff, "198.51.100.1"}, "198.51.100.1/32"},
		{"the last entry counts", "10.0.0.1:80", true, []string{xff, "1.1.1.1, 2.2.2.2,198.51.100.1"}, "198.51.100.1/32"},
		{"proxied IPv6", "10.0.0.1:80", true, []string{xff, "1.1.1.1, 2001:db8:1:2::9"}, "2001:db8:1:2::/64"},
		{"two headers", "10.0.0.1:80", true, []string{xff, "1.1.1.1", xff, "2.2.2.2"}, "10.0.0.1/32"},
		{"garbage", "10.0.0.1:80", true, []string{xff, "unknown"}, "10.0.0.1/32"},
		{"empty", "10.0.0.1:80", true, []string{xff, ""}, "10.0.0.1/32"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", nil)
			r.RemoteAddr = tt.from
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Add(tt.header[i], tt.header[i+1])
			}
			if got := clientAddress(r, tt.proxied); got != netip.MustParsePrefix(tt.want) {
				t.Errorf("%v, want %s", got, tt.want)
			}
		})
	}
}

// However many addresses come, so many are kept: the first has been forgotten,
// and starts afresh.
func TestRateLimitForgets(t *testing.T) {
	h := RateLimit(0.5, false, ok) // bursts of one
	first := "192.0.2.1:1"
	ask(h, first)
	if w := ask(h, first); w.Code != 429 {
		t.Fatalf("the second click: %d", w.Code)
	}
	for i := range maxAddresses {
		ask(h, fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
	}
	if w := ask(h, first); w.Code != 200 {
		t.Errorf("after %d other addresses: %d", maxAddresses, w.Code)
	}
}
