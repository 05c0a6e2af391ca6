package web

import (
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/time/rate"
)

const maxClients = 1 << 14 // clients in RateLimit, about 200 bytes each; one more resets them all

// RateLimit returns a function that wraps handlers. All these handlers together accept perSecond requests per second
// from one client, in bursts of up to ten times as many (at least one), and 20 times as many from all clients together.
// They reject further requests with 429. If perSecond is 0, there are no limits. For proxies, see clientOf.
func RateLimit(perSecond float64, proxies int, log *slog.Logger) func(http.HandlerFunc) http.Handler {
	newLimiter := func(times float64) *rate.Limiter {
		return rate.NewLimiter(rate.Limit(times*perSecond), int(times*math.Ceil(10*perSecond)))
	}
	var mu sync.Mutex
	clients, everyone := make(map[netip.Prefix]*rate.Limiter), newLimiter(20)
	allow := func(client netip.Prefix) bool {
		mu.Lock()
		defer mu.Unlock()
		if clients[client] == nil {
			if len(clients) == maxClients {
				clear(clients)
			}
			clients[client] = newLimiter(1)
		}
		return clients[client].Allow() && everyone.Allow()
	}
	return func(next http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if client := clientOf(r, proxies); perSecond > 0 && !allow(client) {
				log.Debug("click rejected", "client", client)
				http.Error(w, "Too many clicks from your address, or from all visitors together. Wait a moment, "+
					"then click again.", http.StatusTooManyRequests)
				return
			}
			next(w, r)
		})
	}
}

// clientOf identifies the client of a request by its IPv4 address, or by the /56 network of its IPv6 address, because
// providers assign a whole network to one customer (RFC 6177). Behind n proxies, the address is the nth entry from the
// end of all X-Forwarded-For lines together, with or without a port: each proxy appends an entry, and clients can forge
// earlier ones. With fewer entries, it is the first; if the entry is not an address, it is the connection's address.
func clientOf(r *http.Request, proxies int) netip.Prefix {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	ip := peer.Addr()
	if proxies > 0 {
		entries := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
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
