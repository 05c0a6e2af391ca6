package guard

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxAddresses bounds the memory: about 200 bytes are kept for each. An address
// that is pushed out by so many newer ones starts afresh.
const maxAddresses = 1 << 16

// RateLimit lets each client address through perSecond times a second, in bursts
// of twice as many (one at least), and answers 429 beyond it. 0 is no limit. An
// address is an IPv4 address or an IPv6 /64, which one subscriber has to himself
// (RFC 6177). Behind a proxy it is the last entry of X-Forwarded-For, which the
// proxy wrote; those before it are the client's to invent. Where there are
// several such headers it is not sure which one the proxy wrote to, and the
// address is the connection's.
func RateLimit(perSecond float64, proxied bool, next http.Handler) http.Handler {
	if perSecond == 0 {
		return next
	}
	burst := max(1, int(math.Ceil(2*perSecond)))
	buckets, err := lru.New[netip.Prefix, *rate.Limiter](maxAddresses)
	if err != nil {
		panic(err) // of a constant size never happens
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address := clientAddress(r, proxied)
		bucket, ok := buckets.Get(address)
		if !ok {
			bucket = rate.NewLimiter(rate.Limit(perSecond), burst)
			if earlier, found, _ := buckets.PeekOrAdd(address, bucket); found {
				bucket = earlier // another request of this address was quicker
			}
		}
		if !bucket.Allow() {
			wait := max(1, int(math.Ceil(1/perSecond)))
			w.Header().Set("Retry-After", strconv.Itoa(wait))
			http.Error(w, "Too many clicks from your address. Wait a moment, then click again.", http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// clientAddress is the address that a client is known by. Where none can be
// read, all such clients are one.
func clientAddress(r *http.Request, proxied bool) netip.Prefix {
	var ip netip.Addr
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		ip = from.Addr()
	}
	if lines := r.Header.Values("X-Forwarded-For"); proxied && len(lines) == 1 {
		last := lines[0]
		last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
		if forwarded, err := netip.ParseAddr(last); err == nil {
			ip = forwarded
		}
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked()
	}
	return netip.PrefixFrom(ip, ip.BitLen())
}
