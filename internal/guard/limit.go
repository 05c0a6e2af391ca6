package guard

import (
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/time/rate"
)

const maxClients = 1 << 14 // clients in RateLimit, about 200 bytes each; one more resets them all

// RateLimit limits each client to perSecond requests per second, in bursts of up to ten times as
// many (at least one), and rejects further requests with 429. All clients together are limited to
// 20 times as many; further requests get 503. If perSecond is 0, there are no limits.
func RateLimit(log *slog.Logger, perSecond float64, client func(*http.Request) netip.Prefix, next http.Handler) http.Handler {
	if perSecond == 0 {
		return next
	}
	burst := max(1, int(math.Ceil(10*perSecond)))
	wait := max(1, int(math.Ceil(1/perSecond)))
	overall := rate.NewLimiter(rate.Limit(20*perSecond), 20*burst)
	var mu sync.Mutex
	limiters := make(map[netip.Prefix]*rate.Limiter)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := client(r)
		mu.Lock()
		limiter := limiters[from]
		if limiter == nil {
			if len(limiters) == maxClients {
				clear(limiters)
			}
			limiter = rate.NewLimiter(rate.Limit(perSecond), burst)
			limiters[from] = limiter
		}
		mu.Unlock()
		switch {
		case !limiter.Allow():
			log.Info("click rejected: client over RATE_LIMIT")
			w.Header().Set("Retry-After", strconv.Itoa(wait))
			http.Error(w, "Too many clicks from your address. Wait a moment, then click again.", http.StatusTooManyRequests)
		case !overall.Allow():
			log.Info("click rejected: all clients together over 20 times RATE_LIMIT")
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(1/(20*perSecond)))))
			http.Error(w, "Too many clicks from all visitors. Wait a moment, then click again.", http.StatusServiceUnavailable)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// MaxInFlight allows n concurrent requests. It immediately rejects further ones with 503.
func MaxInFlight(log *slog.Logger, n int, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			log.Warn("click rejected: too many in flight")
			w.Header().Set("Retry-After", "1")
			http.Error(w, "Too many clicks at once. Wait a second, then click again.", http.StatusServiceUnavailable)
		}
	})
}

// ClientAddress returns a function that identifies the client of a request by its IPv4 address, or
// by the /56 network of its IPv6 address, because providers assign a whole network to one customer
// (RFC 6177). Behind a trusted proxy, the address is the last entry of X-Forwarded-For, which the
// proxy added; clients can forge the others. If that entry is invalid, or if there are several such
// headers, the address is that of the connection.
func ClientAddress(trustProxy bool) func(*http.Request) netip.Prefix {
	return func(r *http.Request) netip.Prefix {
		from, _ := netip.ParseAddrPort(r.RemoteAddr)
		ip := from.Addr()
		if lines := r.Header["X-Forwarded-For"]; trustProxy && len(lines) == 1 {
			last := lines[0][strings.LastIndexByte(lines[0], ',')+1:]
			if forwarded, err := netip.ParseAddr(strings.TrimSpace(last)); err == nil {
				ip = forwarded
			}
		}
		ip = ip.Unmap()
		client, _ := ip.Prefix(min(ip.BitLen(), 56)) // Prefix drops an IPv6 zone
		return client
	}
}
