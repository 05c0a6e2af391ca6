package web

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// limited returns a handler with RateLimit for clients without a proxy.
func limited(perSecond float64) http.Handler {
	return RateLimit(perSecond, 0, noLog)(ok)
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(1)
		for i := range 10 {
			if w := post(h, "192.0.2.1:1"); w.Code != 200 {
				t.Fatalf("click %d of a burst: status %d, want 200", i, w.Code)
			}
		}
		if w := post(h, "192.0.2.1:2"); w.Code != 429 || w.Header().Get("Retry-After") != "1" {
			t.Errorf("after the burst: %d, Retry-After %q, %q", w.Code, w.Header().Get("Retry-After"), w.Body)
		}
		if w := post(h, "192.0.2.2:1"); w.Code != 200 {
			t.Errorf("another address: status %d, want 200", w.Code)
		}
		time.Sleep(time.Second)
		for i := range 3 {
			if w := post(h, "192.0.2.1:1"); (w.Code == 200) != (i < 1) {
				t.Errorf("a second later, click %d: status %d", i, w.Code)
			}
		}
	})
}

// If many clients click as fast as each is allowed to, the overall limit applies. Retry-After says when it allows the
// next click.
func TestRateLimitOfAllClients(t *testing.T) {
	for perSecond, seconds := range map[float64]int{0.01: 5, 0.03: 2, 1: 1} { // 20 times perSecond
		synctest.Test(t, func(t *testing.T) {
			h := limited(perSecond)
			for i := range 20 * int(max(1, 10*perSecond)) {
				if w := post(h, fmt.Sprintf("192.0.2.%d:1", i)); w.Code != 200 {
					t.Fatalf("click %d: status %d, want 200", i, w.Code)
				}
			}
			w := post(h, "192.0.2.254:1")
			if w.Code != 503 || w.Header().Get("Retry-After") != fmt.Sprint(seconds) {
				t.Fatalf("status %d, Retry-After %q, want 503 and %d", w.Code, w.Header().Get("Retry-After"), seconds)
			}
			time.Sleep(time.Duration(seconds) * time.Second)
			if w := post(h, "192.0.2.255:1"); w.Code != 200 {
				t.Errorf("%d s later: status %d, want 200", seconds, w.Code)
			}
		})
	}
}

// All handlers of one RateLimit share its limits.
func TestRateLimitOfSeveralHandlers(t *testing.T) {
	limit := RateLimit(0.1, 0, noLog)
	first, second := limit(ok), limit(ok)
	if a, b := post(first, "192.0.2.1:1").Code, post(second, "192.0.2.1:1").Code; a != 200 || b != 429 {
		t.Errorf("status %d and %d, want 200 and 429", a, b)
	}
}

// With too many clients, all limits are reset, so that memory stays bounded.
func TestRateLimitBoundsMemory(t *testing.T) {
	h := limited(0.1) // in bursts of one request
	const first = "192.0.2.1:1"
	post(h, first)
	if w := post(h, first); w.Code != 429 || w.Header().Get("Retry-After") != "10" {
		t.Fatalf("the second click: status %d, Retry-After %q, want 429 and 10", w.Code, w.Header().Get("Retry-After"))
	}
	for i := range maxClients - 1 {
		post(h, fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
	}
	if w := post(h, first); w.Code != 429 {
		t.Errorf("with as many clients as the limits allow: status %d, want 429", w.Code)
	}
	post(h, "192.0.2.2:1")
	if w := post(h, first); w.Code == 429 {
		t.Errorf("with one client more: status %d, want anything else", w.Code)
	}
}

func TestClient(t *testing.T) {
	tests := []struct {
		name    string
		from    string
		proxies int
		lines   []string // of X-Forwarded-For
		want    string
	}{
		{"IPv4", "192.0.2.1:80", 0, nil, "192.0.2.1/32"},
		{"IPv6", "[2001:db8:1:2:3::4]:80", 0, nil, "2001:db8:1::/56"},
		{"IPv6 with a zone", "[fe80::1%eth0]:80", 0, nil, "fe80::/56"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:80", 0, nil, "192.0.2.1/32"},
		{"header without a proxy", "192.0.2.1:80", 0, []string{"198.51.100.1"}, "192.0.2.1/32"},
		{"proxied", "10.0.0.1:80", 1, []string{"198.51.100.1"}, "198.51.100.1/32"},
		{"the last entry counts", "10.0.0.1:80", 1, []string{"1.1.1.1, 2.2.2.2,198.51.100.1"}, "198.51.100.1/32"},
		{"proxied IPv6", "10.0.0.1:80", 1, []string{"1.1.1.1, 2001:db8:1:ff02::9"}, "2001:db8:1:ff00::/56"},
		{"two lines, as from HAProxy", "10.0.0.1:80", 1, []string{"1.1.1.1", "2.2.2.2"}, "2.2.2.2/32"},
		{"two proxies", "10.0.0.1:80", 2, []string{"1.1.1.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1/32"},
		{"fewer entries than proxies", "10.0.0.1:80", 3, []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1/32"},
		{"with a port, as from Azure", "10.0.0.1:80", 1, []string{"198.51.100.1:56789"}, "198.51.100.1/32"},
		{"IPv6 with a port", "10.0.0.1:80", 1, []string{"[2001:db8:1:ff02::9]:56789"}, "2001:db8:1:ff00::/56"},
		{"IPv6 in brackets", "10.0.0.1:80", 1, []string{"[2001:db8:1:ff02::9]"}, "2001:db8:1:ff00::/56"},
		{"empty", "10.0.0.1:80", 1, []string{""}, "10.0.0.1/32"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", nil)
			r.RemoteAddr = tt.from
			r.Header["X-Forwarded-For"] = tt.lines
			if got := Client(r, tt.proxies); got != netip.MustParsePrefix(tt.want) {
				t.Errorf("%v, want %s", got, tt.want)
			}
		})
	}
}
