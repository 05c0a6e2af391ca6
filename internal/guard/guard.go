// Package guard protects the app from the internet. It sets security headers, rejects cross-origin
// requests, recovers from panics, limits clicks, connections, memory and the log, and shuts down
// gracefully. Its own responses are one or two sentences of plain text.
package guard

import (
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
)

// Headers sets the security headers of every response. The Content-Security-Policy allows the page
// to load pusher-js from its CDN, to connect to the origins in connect, and otherwise to use its
// own origin only. If a trusted proxy reports HTTPS, browsers must use it for a year (RFC 6797).
func Headers(trustProxy bool, connect []string, next http.Handler) http.Handler {
	policy := "script-src 'self' https://js.pusher.com/8.6.0/; " +
		strings.Join(append([]string{"connect-src 'self'"}, connect...), " ") + "; " +
		"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; " +
		"frame-ancestors 'none'; base-uri 'none'"
	headers := http.Header{ // shared by all responses, to avoid allocations
		"Content-Security-Policy": {policy},
		"Permissions-Policy":      {"camera=(), geolocation=(), microphone=(), payment=(), usb=()"},
		"Referrer-Policy":         {"no-referrer"},
		"X-Content-Type-Options":  {"nosniff"},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		if trustProxy && r.Header.Get("X-Forwarded-Proto") == "https" {
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// SameOrigin rejects cross-origin requests from browsers with 403, except GET, HEAD and OPTIONS
// (see [http.CrossOriginProtection]). It allows requests from programs other than browsers.
func SameOrigin(log *slog.Logger, next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Info("cross-origin request rejected", "origin", shorten(r.Header.Get("Origin")), "host", shorten(r.Host))
		http.Error(w, "Another site's page sent this request, or a reverse proxy changed the Host header. "+
			"Click the button on this site's own page, or make the proxy forward Host unchanged.", http.StatusForbidden)
	}))
	return p.Handler(next)
}

// RejectRebinding responds with 421 to requests whose Host is neither localhost nor an IP address.
// It protects a server on a loopback address from DNS rebinding: an attacker makes the name of a
// site resolve to 127.0.0.1, so browsers let pages of that site read this page and send clicks.
func RejectRebinding(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := (&url.URL{Host: r.Host}).Hostname()
		if _, err := netip.ParseAddr(host); err != nil && !strings.EqualFold(host, "localhost") {
			log.Warn("request for another host rejected: behind a local proxy or tunnel, set TRUST_PROXY=1", "host", shorten(host))
			http.Error(w, "This server accepts requests for localhost and IP addresses only. Behind a local proxy or tunnel, set TRUST_PROXY=1.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func shorten(s string) string { return s[:min(len(s), 100)] } // for the log

// Recover recovers from panics in handlers. It logs the panic and its stack, and responds with 500.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				log.Error("panic in a handler", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				http.Error(w, "Something went wrong on this server; its log has the details. Try again.", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}
