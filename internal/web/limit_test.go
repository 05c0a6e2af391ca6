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

// accepted returns how many of n clicks from an address are accepted. Others must get 429.
func accepted(t *testing.T, h http.Handler, n int, from string) (count int) {
	t.Helper()
	for range n {
		if w := send(h, "POST", "/", "Remote", from); w.Code == 200 {
			count++
		} else if w.Code != 429 {
			t.Errorf("status %d, want 200 or 429", w.Code)
		}
	}
	return count
}

// A client may click once per second, in bursts of ten. All handlers of one RateLimit share the limit.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := RateLimit(1, 0, debugOnly)
		burst := accepted(t, limit(ok), 12, "192.0.2.1:1")
		another := accepted(t, limit(ok), 12, "192.0.2.2:1")
		again := accepted(t, limit(ok), 12, "192.0.2.1:2")
		time.Sleep(2 * time.Second)
		later := accepted(t, limit(ok), 12, "192.0.2.1:1")
		if burst != 10 || another != 10 || again != 0 || later != 2 {
			t.Errorf("accepted of 12 clicks: %d, of another client %d, again %d, after 2 s %d", burst, another, again, later)
		}
	})
}

// If many clients click as fast as each is allowed to, the limit of all clients together applies, which is 20 times
// that of one client. A rate of 0 turns off all limits.
func TestRateLimitOfAllClients(t *testing.T) {
	for perSecond, want := range map[float64]int{0: 50, 0.01: 20} {
		synctest.Test(t, func(t *testing.T) {
			h, got := RateLimit(perSecond, 0, debugOnly)(ok), 0
			for i := range 50 {
				got += accepted(t, h, 1, fmt.Sprintf("192.0.2.%d:1", i))
			}
			time.Sleep(5 * time.Second)
			next := accepted(t, h, 1, "192.0.2.99:1")
			if got != want || next != 1 {
				t.Errorf("at %v clicks per second, %d of 50 were accepted, want %d; %d of 1 later", perSecond, got, want, next)
			}
		})
	}
}

// With too many clients, all limits are reset, so that memory stays bounded.
func TestRateLimitBoundsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := RateLimit(0.01, 0, debugOnly)(ok) // one click per 100 s
		const first = "192.0.2.1:1"
		for i := range maxClients {
			accepted(t, h, 1, fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255))
		}
		accepted(t, h, 1, first) // resets the limits
		time.Sleep(20 * time.Second)
		if got := accepted(t, h, 2, "10.0.0.0:1"); got != 1 {
			t.Errorf("%d of 2 clicks were accepted, want 1", got)
		}
	})
}

func TestClient(t *testing.T) {
	for _, tt := range []struct {
		from    string
		proxies int
		lines   []string // of X-Forwarded-For
		want    string
	}{
		{"192.0.2.1:80", 0, nil, "192.0.2.1/32"},
		{"[2001:db8:1:2:3::4]:80", 0, nil, "2001:db8:1::/56"},
		{"[fe80::1%eth0]:80", 0, nil, "fe80::/56"},
		{"[::ffff:192.0.2.1]:80", 0, nil, "192.0.2.1/32"},
		{"192.0.2.1:80", 0, []string{"198.51.100.1"}, "192.0.2.1/32"},
		{"10.0.0.1:80", 1, []string{"1.1.1.1, 2.2.2.2,198.51.100.1"}, "198.51.100.1/32"},
		{"10.0.0.1:80", 1, []string{"1.1.1.1", "2.2.2.2"}, "2.2.2.2/32"}, // as from HAProxy
		{"10.0.0.1:80", 2, []string{"1.1.1.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1/32"},
		{"10.0.0.1:80", 3, []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1/32"},
		{"10.0.0.1:80", 1, []string{"198.51.100.1:56789"}, "198.51.100.1/32"}, // as from Azure
		{"10.0.0.1:80", 1, []string{"[2001:db8:1:ff02::9]"}, "2001:db8:1:ff00::/56"},
		{"10.0.0.1:80", 1, nil, "10.0.0.1/32"},
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.RemoteAddr, r.Header["X-Forwarded-For"] = tt.from, tt.lines
		if got := clientOf(r, tt.proxies); got != netip.MustParsePrefix(tt.want) {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}
