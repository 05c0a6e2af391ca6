// Package guard stands between the internet and the app's handlers: it sets security
// headers, recovers from panics, and limits clicks, connections, memory and the log.
// Its own responses are one or two sentences of text/plain.
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

// Headers sets the security headers of every response. The page may load pusher-js from its CDN,
// and may otherwise use its own origin only; connect lists more origins that it may connect to.
// If a trusted proxy received the request over TLS, the response tells browsers to use TLS for
// a year (RFC 6797).
func Headers(trustProxy bool, connect []string, next http.Handler) http.Handler {
	policy := "script-src 'self' https://js.pusher.com/8.6.0/; " +
		strings.Join(append([]string{"connect-src 'self'"}, connect...), " ") + "; " +
		"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; " +
		"frame-ancestors 'none'; base-uri 'none'"
	headers := http.Header{ // shared by all responses: setting a header then allocates nothing
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

// SameOrigin rejects unsafe cross-origin requests with 403. Same-origin and non-browser
// requests pass.
func SameOrigin(log *slog.Logger, next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Info("cross-origin request rejected", "origin", shorten(r.Header.Get("Origin")), "host", shorten(r.Host))
		http.Error(w, "Another site's page sent this request, or a reverse proxy changed the Host header. "+
			"Click on this site's own page, or make the proxy forward Host unchanged.", http.StatusForbidden)
	}))
	return p.Handler(next)
}

// RejectRebinding responds with 421 to requests whose Host is neither localhost nor an IP
// address. It protects a server on a loopback address from DNS rebinding, in which a site points
// its own name at 127.0.0.1, so that its pages count as same-origin and can read the page and
// send clicks.
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

// Recover responds to a panic in a handler with 500 and logs it with its stack.
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
