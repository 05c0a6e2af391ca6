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

// RateLimit returns a function that wraps handlers. All these handlers together accept perSecond requests per second
// from one client, in bursts of up to ten times as many (at least one), and reject further requests with 429. From all
// clients together, they accept 20 times as many, and respond with 503 to further ones. If perSecond is 0, there are no
// limits. For proxies, see Client.
func RateLimit(perSecond float64, proxies int, log *slog.Logger) func(http.HandlerFunc) http.Handler {
	if perSecond == 0 {
		return func(next http.HandlerFunc) http.Handler { return next }
	}
	newLimiter := func(times int) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(float64(times)*perSecond), times*int(math.Ceil(10*perSecond)))
	}
	everyone := newLimiter(20)
	var mu sync.Mutex
	limiters := make(map[netip.Prefix]*rate.Limiter)
	limiterOf := func(client netip.Prefix) *rate.Limiter {
		mu.Lock()
		defer mu.Unlock()
		if limiters[client] == nil {
			if len(limiters) == maxClients {
				clear(limiters)
			}
			limiters[client] = newLimiter(1)
		}
		return limiters[client]
	}
	return func(next http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			client := Client(r, proxies)
			reject := func(status int, exceeded *rate.Limiter, who string) {
				log.Debug("click rejected", "status", status, "client", client)
				w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(1/float64(exceeded.Limit())))))
				http.Error(w, "Too many clicks from "+who+". Wait a moment, then click again.", status)
			}
			switch own := limiterOf(client); {
			case !own.Allow():
				reject(http.StatusTooManyRequests, own, "your address")
			case !everyone.Allow():
				reject(http.StatusServiceUnavailable, everyone, "all visitors")
			default:
				next(w, r)
			}
		})
	}
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
