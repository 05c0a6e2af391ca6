package guard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// limited returns a handler with RateLimit for clients without a proxy.
func limited(perSecond float64) http.Handler {
	return RateLimit(noLog, perSecond, ClientAddress(false), ok)
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(1)
		for i := range 10 {
			if w := post(h, "192.0.2.1:1"); w.Code != 200 {
				t.Fatalf("click %d of a burst: status %d, want 200", i, w.Code)
			}
		}
		if w := post(h, "192.0.2.1:2"); w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "Wait a moment") {
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

// With a low limit, Retry-After says when the limit for all clients allows the next click.
func TestRetryAfterOfAllClients(t *testing.T) {
	for perSecond, seconds := range map[float64]int{0.01: 5, 0.03: 2} { // a burst of 20, then 20 times perSecond
		synctest.Test(t, func(t *testing.T) {
			h := limited(perSecond)
			for i := range 20 {
				post(h, fmt.Sprintf("192.0.2.%d:1", i))
			}
			w := post(h, "192.0.2.100:1")
			if w.Code != 503 || w.Header().Get("Retry-After") != fmt.Sprint(seconds) {
				t.Fatalf("status %d, Retry-After %q, want 503 and %d", w.Code, w.Header().Get("Retry-After"), seconds)
			}
			time.Sleep(time.Duration(seconds) * time.Second)
			if w := post(h, "192.0.2.101:1"); w.Code != 200 {
				t.Errorf("%d s later: status %d, want 200", seconds, w.Code)
			}
		})
	}
}

// If many clients click as fast as each is allowed to, the overall limit applies.
func TestRateLimitOfAllClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(1)
		var accepted, rejected int
		for range 60 {
			for i := range 100 {
				switch w := post(h, fmt.Sprintf("192.0.2.%d:1", i)); w.Code {
				case 200:
					accepted++
				case 503:
					rejected++
					if w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "all visitors") {
						t.Fatalf("Retry-After %q, %q", w.Header().Get("Retry-After"), w.Body)
					}
				default:
					t.Fatalf("status %d, want 200 or 503", w.Code)
				}
			}
			time.Sleep(time.Second)
		}
		if want := 200 + 59*20; accepted != want || rejected == 0 { // a burst of 200, then 20 per second
			t.Errorf("%d clicks accepted, want %d; %d rejected", accepted, want, rejected)
		}
	})
}

// All addresses of an IPv6 /56 count as one client.
func TestRateLimitOfIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, accepted := limited(1), 0
		for i := range 256 {
			if w := post(h, fmt.Sprintf("[2001:db8:1:%x::%x]:1", i, i)); w.Code == 200 {
				accepted++
			}
		}
		if accepted != 10 {
			t.Errorf("%d clicks accepted from one /56, want 10", accepted)
		}
		if w := post(h, "[2001:db8:1:100::1]:1"); w.Code != 200 {
			t.Errorf("another /56: status %d, want 200", w.Code)
		}
	})
}

func TestNoRateLimit(t *testing.T) {
	h := limited(0)
	for range 1000 {
		if w := post(h, "192.0.2.1:1"); w.Code != 200 {
			t.Fatal(w.Code)
		}
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
	for i := range maxClients {
		post(h, fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
	}
	if w := post(h, first); w.Code == 429 {
		t.Errorf("after %d other addresses: status %d, want anything else", maxClients, w.Code)
	}
}

func TestMaxInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // synctest reports a request that blocks forever
		inside, leave := make(chan bool), make(chan bool)
		h := MaxInFlight(noLog, 2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inside <- true
			<-leave
		}))
		status := make(chan int)
		for range 2 {
			go func() { status <- post(h, "192.0.2.1:1").Code }()
			<-inside
		}
		if w := post(h, "192.0.2.1:1"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("one too many: status %d, Retry-After %q, want 503 and a delay", w.Code, w.Header().Get("Retry-After"))
		}
		leave <- true
		<-status // wait for one to end, so that there is room for another
		go func() { status <- post(h, "192.0.2.1:1").Code }()
		<-inside
		close(leave)
		if a, b := <-status, <-status; a != 200 || b != 200 {
			t.Errorf("status %d and %d, want 200", a, b)
		}
	})
}

func TestClientAddress(t *testing.T) {
	const xff = "X-Forwarded-For"
	tests := []struct {
		name       string
		from       string
		trustProxy bool
		header     []string
		want       string
	}{
		{"IPv4", "192.0.2.1:80", false, nil, "192.0.2.1/32"},
		{"IPv6", "[2001:db8:1:2:3::4]:80", false, nil, "2001:db8:1::/56"},
		{"IPv6 with a zone", "[fe80::1%eth0]:80", false, nil, "fe80::/56"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:80", false, nil, "192.0.2.1/32"},
		{"header without a proxy", "192.0.2.1:80", false, []string{xff, "198.51.100.1"}, "192.0.2.1/32"},
		{"proxied", "10.0.0.1:80", true, []string{xff, "198.51.100.1"}, "198.51.100.1/32"},
		{"the last entry counts", "10.0.0.1:80", true, []string{xff, "1.1.1.1, 2.2.2.2,198.51.100.1"}, "198.51.100.1/32"},
		{"proxied IPv6", "10.0.0.1:80", true, []string{xff, "1.1.1.1, 2001:db8:1:ff02::9"}, "2001:db8:1:ff00::/56"},
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
			if got := ClientAddress(tt.trustProxy)(r); got != netip.MustParsePrefix(tt.want) {
				t.Errorf("%v, want %s", got, tt.want)
			}
		})
	}
}
