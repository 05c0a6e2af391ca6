// Package guard is what stands between the internet and the app's handlers:
// security headers, limits, and a net under panics. Every answer of its own is
// one or two sentences of text/plain.
package guard

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
)

// Headers sets the security headers of every answer. A page may load scripts
// from its own origin and from scripts, connect to its own origin and to
// connect, each a list of CSP source expressions (CSP Level 3, section 2.3.1),
// and nothing else. Where the request came by TLS, directly or as a proxy says,
// browsers are told to use nothing else for a year (RFC 6797).
func Headers(scripts, connect []string, next http.Handler) http.Handler {
	policy := strings.Join([]string{
		"default-src 'none'",
		"script-src " + strings.Join(append([]string{"'self'"}, scripts...), " "),
		"style-src 'self'",
		"img-src 'self'",
		"connect-src " + strings.Join(append([]string{"'self'"}, connect...), " "),
		"form-action 'self'",
		"frame-ancestors 'none'",
		"base-uri 'none'",
	}, "; ")
	var ( // made once and shared: setting a header then allocates nothing
		security    = []string{policy}
		permissions = []string{"camera=(), geolocation=(), microphone=(), payment=(), usb=()"}
		noReferrer  = []string{"no-referrer"}
		noSniff     = []string{"nosniff"}
		strict      = []string{"max-age=31536000"}
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Content-Security-Policy"] = security
		h["Permissions-Policy"] = permissions
		h["Referrer-Policy"] = noReferrer
		h["X-Content-Type-Options"] = noSniff
		if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
			h["Strict-Transport-Security"] = strict
		}
		next.ServeHTTP(w, r)
	})
}

// SameOrigin refuses what another site's page sends with a method that changes
// something: 403. Requests of this site's pages, and of programs, pass.
func SameOrigin(next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Another site's page sent this. Clicks are taken from this site's own page only: open it and click there.", http.StatusForbidden)
	}))
	return p.Handler(next)
}

// AtMost lets n requests through at one time. Beyond it the answer is 503 at
// once: a queue would only make everybody wait.
func AtMost(n int, next http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "Too many clicks are on their way at once. Wait a second, then click again.", http.StatusServiceUnavailable)
		}
	})
}

// Recover answers a panic in a handler with 500 and logs it with its stack.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { // net/http's way to end a connection
				panic(v)
			}
			log.Error("panic in a handler", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			http.Error(w, "Something went wrong in this server; its log says what. Try again.", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}
