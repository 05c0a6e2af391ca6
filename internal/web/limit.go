package web

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

// RateLimit limits each client to perSecond requests per second, in bursts of up to ten times as many (at least one),
// and rejects further requests with 429. All clients together are limited to 20 times as many; further requests get
// 503. If perSecond is 0, there are no limits. For proxies, see Client.
func RateLimit(next http.Handler, perSecond float64, proxies int, log *slog.Logger) http.Handler {
	if perSecond == 0 {
		return next
	}
	newLimiter := func(times int) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(float64(times)*perSecond), times*int(math.Ceil(10*perSecond)))
	}
	everyone := newLimiter(20)
	var mu sync.Mutex
	limiters := make(map[netip.Prefix]*rate.Limiter)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := Client(r, proxies)
		mu.Lock()
		limiter := limiters[client]
		if limiter == nil {
			if len(limiters) == maxClients {
				clear(limiters)
			}
			limiter = newLimiter(1)
			limiters[client] = limiter
		}
		mu.Unlock()
		reject := func(status int, exceeded *rate.Limiter, text string) {
			log.Debug("click rejected", "status", status, "client", client)
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(1/float64(exceeded.Limit())))))
			http.Error(w, text, status)
		}
		switch {
		case !limiter.Allow():
			reject(http.StatusTooManyRequests, limiter, "Too many clicks from your address. Wait a moment, then click again.")
		case !everyone.Allow():
			reject(http.StatusServiceUnavailable, everyone, "Too many clicks from all visitors. Wait a moment, then click again.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// Client identifies the client of a request by its IPv4 address, or by the /56 network of its IPv6 address, because
// providers assign a whole network to one customer (RFC 6177). Behind n proxies, the address is the nth from the end of
// all X-Forwarded-For lines together, with or without a port: each proxy adds one, and clients can forge those before
// it. If that entry is not an address, the connection's address counts.
func Client(r *http.Request, proxies int) netip.Prefix {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	ip := peer.Addr()
	if lines := r.Header["X-Forwarded-For"]; proxies > 0 && len(lines) > 0 {
		entries := strings.Split(strings.Join(lines, ","), ",")
		entry := strings.TrimSpace(entries[max(0, len(entries)-proxies)])
		if withPort, err := netip.ParseAddrPort(entry); err == nil {
			ip = withPort.Addr()
		} else if addr, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
			ip = addr
		}
	}
	ip = ip.Unmap()
	client, _ := ip.Prefix(min(ip.BitLen(), 56)) // Prefix drops an IPv6 zone
	return client
}
