package web

import (
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// ConnectSources returns the origins to which the page connects, besides its own, for the Content-Security-Policy: that
// of the WebSockets at socketURL and, for a cluster of Pusher, that of SockJS, which pusher-js uses if WebSockets are
// blocked. For the embedded server, it returns "".
func ConnectSources(socketURL, cluster string) string {
	scheme, rest, _ := strings.Cut(socketURL, "//")
	host, _, _ := strings.Cut(rest, "/")
	switch {
	case socketURL == "":
		return ""
	case cluster != "":
		return socketURL + " https://sockjs-" + cluster + ".pusher.com"
	case strings.ContainsAny(host, "[_"): // a policy can't name such a host, so allow all hosts
		return scheme
	}
	return scheme + "//" + host
}

// Protect sets the security headers of every response, and rejects requests that another site's page sent (see
// [http.CrossOriginProtection]). The Content-Security-Policy allows the page to load pusher-js from its CDN, to connect
// to the origins in connect, which are separated by spaces, and otherwise to use its own origin only.
//
// If proxies is not 0, X-Forwarded-Host replaces the request's Host. Its first value is the host that the browser
// requested, even behind several proxies. Programs can forge it, but the Host only serves to detect pages of other
// sites, and these can't set the header.
//
// If proxies is 0 and the server's address, at, is a loopback address, Protect responds with 421 to requests whose Host
// is neither localhost nor an IP address. This prevents DNS rebinding: an attacker makes the name of a site resolve to
// 127.0.0.1, so that pages of that site can read this page and send clicks.
func Protect(next http.Handler, connect string, proxies int, at *net.TCPAddr, log *slog.Logger) http.Handler {
	headers := http.Header{ // shared by all responses, to avoid allocations
		"Content-Security-Policy": {"script-src 'self' https://js.pusher.com; " +
			strings.TrimSpace("connect-src 'self' "+connect) + "; default-src 'none'; style-src 'self'; " +
			"img-src 'self' data:; font-src 'self'; media-src 'self'; form-action 'self'; frame-ancestors 'none'; " +
			"base-uri 'none'"},
		"Referrer-Policy":        {"no-referrer"},
		"X-Content-Type-Options": {"nosniff"},
	}
	reject := func(w http.ResponseWriter, r *http.Request, status int, text string) {
		log.Debug("request rejected", "status", status, "host", r.Host, "origin", r.Header.Get("Origin"))
		http.Error(w, text, status)
	}
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reject(w, r, http.StatusForbidden, "Another site's page sent this request, or a reverse proxy changed the Host "+
			"header. Click the button on this site's own page, or make the proxy forward Host unchanged.")
	}))
	next = sameOrigin.Handler(next)
	defaultPorts := map[string]string{"http": ":80", "https": ":443"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		if forwarded, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Host"), ","); proxies > 0 && forwarded != "" {
			r.Host = strings.TrimSpace(forwarded)
		}
		// An Origin never has the default port of its scheme, but some proxies add it to the Host.
		origin, err := url.Parse(r.Header.Get("Origin"))
		if err == nil && r.Host == origin.Host+defaultPorts[origin.Scheme] {
			r.Host = origin.Host
		}
		if proxies == 0 && at.IP.IsLoopback() && !isLocal(r.Host) {
			reject(w, r, http.StatusMisdirectedRequest, "This server accepts requests for localhost and IP addresses "+
				"only: open http://"+at.String()+"/ instead. Set TRUST_PROXY=1 only if a reverse proxy or a tunnel "+
				"on this machine forwards requests to this server.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLocal reports whether host[:port] is localhost, a name that ends with .localhost, or an IP address.
func isLocal(hostport string) bool {
	host := strings.ToLower((&url.URL{Host: hostport}).Hostname())
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
