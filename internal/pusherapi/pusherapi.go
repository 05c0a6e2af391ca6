// Package pusherapi calls the HTTP API of a Pusher Channels server within limits, and
// explains failed calls. NewTransport and InProcess return transports for
// pusher-http-go; Explain says in a sentence or two why a call failed and how to fix it.
package pusherapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	callTimeout = 5 * time.Second           // for connecting, sending, and reading the response
	dialTimeout = 3 * time.Second           // for DNS and TCP
	tlsTimeout  = callTimeout - dialTimeout // so that no dial outlives its call
	idleTimeout = 30 * time.Second          // nginx and load balancers wait 60 s or more
	maxResponse = 64 << 10                  // bytes; the API's responses are a few
)

// Windows error codes. On Windows, syscall.ECONNREFUSED and the like have invented values
// that no error has.
const (
	wsaEMFILE       = syscall.Errno(10024)
	wsaENETUNREACH  = syscall.Errno(10051)
	wsaECONNREFUSED = syscall.Errno(10061)
	wsaEHOSTUNREACH = syscall.Errno(10065)
)

// NewTransport returns a transport for up to maxCalls calls at a time to one host. A call
// ends within 5 s, and reads at most 64 KB; a status other than 2xx is an error.
func NewTransport(maxCalls int) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	t.TLSHandshakeTimeout = tlsTimeout
	// Close idle connections before the server does: a request sent during the close
	// fails, and retrying it might send the event twice.
	t.IdleConnTimeout = idleTimeout
	t.MaxConnsPerHost = maxCalls
	t.MaxIdleConns, t.MaxIdleConnsPerHost = maxCalls, maxCalls
	t.DisableCompression = true // for a few bytes
	return limitedTransport{t}
}

type limitedTransport struct{ next http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	var call callError
	// WroteRequest would not tell more than GotConn: it is called before the last bytes
	// leave net/http's buffer.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(c httptrace.GotConnInfo) { call.connected, call.wasIdle = true, c.WasIdle },
		GotFirstResponseByte: func() { call.responded.Store(true) },
	})
	var body []byte
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxResponse))
	}
	if err != nil {
		call.error = err
		return nil, &call
	}
	return respond(resp.StatusCode, resp.Header, body)
}

// respond returns a response with the status 2xx, and a *statusError for any other.
func respond(status int, header http.Header, body []byte) (*http.Response, error) {
	if status < 200 || status > 299 {
		date, _ := http.ParseTime(header.Get("Date"))
		return nil, &statusError{status, string(body), date}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body))}, nil
}

// callError is a call without a complete response.
type callError struct {
	error
	connected bool        // false if the request was never sent
	wasIdle   bool        // whether the connection was idle before
	responded atomic.Bool // whether the server sent any byte of a response
}

func (e *callError) Unwrap() error { return e.error }

// statusError is a response with a status other than 2xx.
type statusError struct {
	status int
	body   string    // not for display
	date   time.Time // by the server's clock; zero if unknown
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the API responded with status %d", e.status)
}

// InProcess returns a transport that calls a handler of this process, so that the same
// client triggers events on an embedded server. A status other than 2xx is an error.
func InProcess(handler http.Handler) http.RoundTripper { return inProcess{handler} }

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	return respond(w.status, w.header, w.Bytes())
}

// recorder is an http.ResponseWriter that keeps what is written.
type recorder struct {
	bytes.Buffer
	header http.Header
	status int
}

func (w *recorder) Header() http.Header    { return w.header }
func (w *recorder) WriteHeader(status int) { w.status = status }

// Explain says in one or two sentences why a call of pusher-http-go failed and how to
// fix it, and returns the HTTP status to respond with: 504 for a timeout, else 502.
// Visitors of the page read the sentences: they contain nothing that the server sent,
// no URL, key or secret, and no host. The argument server is "Pusher", or a name such as
// "the Channels server".
func Explain(err error, server string) (status int, text string) {
	var (
		call    *callError
		refused *statusError
		timeout interface{ Timeout() bool }
	)
	status = http.StatusBadGateway
	switch {
	case errors.As(err, &refused):
		text = explainStatus(refused, server)
	case errors.As(err, &call) && errors.As(call.error, &timeout) && timeout.Timeout():
		status, text = http.StatusGatewayTimeout, explainTimeout(call, server)
	default:
		text = explainFailure(err, server)
	}
	return status, strings.ToUpper(text[:1]) + text[1:]
}

func explainStatus(e *statusError, server string) string {
	body := strings.ToLower(e.body)
	mentions := func(text string) bool { return strings.Contains(body, text) }
	switch {
	case mentions("timestamp expired"):
		return explainClock(e, server)
	case mentions("signature"): // before auth_key, which is also in the text to sign
		return explainSecret(server)
	case mentions("auth_key"), mentions("app key"), mentions("app_id"), mentions("unknown app"), e.status == http.StatusNotFound:
		if server == "Pusher" {
			return "Pusher does not know this app: the key, the app ID or the cluster is wrong. Compare all three with the App Keys page of your app on the Pusher dashboard."
		}
		return server + " does not know this app: the key or the app ID is wrong. Compare both with the app's entry in that server's configuration."
	case mentions("http request to an https server"), mentions("plain http"):
		return server + " requires TLS on that port, so the event was not sent. Use https in PUSHER_URL, or SECURE = True in app.cfg."
	case e.status == http.StatusUnauthorized:
		return explainSecret(server)
	case e.status == http.StatusForbidden && mentions("quota"):
		return server + " refused the event: the app's message quota is used up. Wait until it is renewed (daily with Pusher), or choose a larger plan."
	case e.status == http.StatusForbidden && mentions("disabled"):
		return server + " refused the event: this app is disabled. Enable it in that server's configuration, or at Pusher in the app's settings on the dashboard."
	case e.status == http.StatusForbidden:
		return server + " refused the event: the app is disabled, over its quota, or not allowed to do this. Check the app in that server's configuration, or on the Pusher dashboard."
	case e.status == http.StatusRequestEntityTooLarge:
		return tooLarge
	case e.status == http.StatusBadRequest, e.status == http.StatusUnprocessableEntity:
		return fmt.Sprintf("%s refused the event as invalid (status %d). Use %s for the channel; at most 200 characters, not beginning with \"pusher\", for the event.", server, e.status, validChannel)
	case e.status == http.StatusTooManyRequests:
		return server + " refused the event: this app sends too many events. Wait a moment, then click more slowly."
	case e.status >= 500:
		return fmt.Sprintf("%s had a server error (status %d), so it is not known whether the event was sent. Try again later, or check %s.", server, e.status, statusPage(server))
	case e.status >= 300 && e.status < 400:
		return fmt.Sprintf("%s redirects to another address (status %d), so the event was not sent. Check the host and port, and whether to use http or https.", server, e.status)
	default:
		return fmt.Sprintf("%s refused the event (status %d). Check the credentials, and that the host and port are those of a Channels server.", server, e.status)
	}
}

const (
	validChannel = "only A-Z a-z 0-9 _ - = @ , . ; and at most 164 characters"
	tooLarge     = "The event is too large. Send at most 10 KB of data, or a link to the data."
)

func explainSecret(server string) string {
	return server + " refused the signature: the secret is wrong, or belongs to another key. Copy both key and secret again from the app's configuration."
}

// statusPage returns where to look for problems of the server.
func statusPage(server string) string {
	if server == "Pusher" {
		return "status.pusher.com"
	}
	return "that server's log"
}

// explainClock explains that this machine's clock is off by more than the 10 minutes for
// which a signature is valid. By how much, it tells by the Date header of the response.
func explainClock(e *statusError, server string) string {
	how := "ahead of or behind"
	ahead := time.Since(e.date).Round(time.Minute)
	amount := strings.TrimSuffix(ahead.Abs().String(), "0s") // such as 1h30m
	switch {
	case e.date.IsZero(), ahead == 0:
	case ahead < 0:
		how = amount + " behind"
	default:
		how = amount + " ahead of"
	}
	return "This machine's clock is " + how + " the clock of " + server + "; at most 10 minutes are allowed. Set it: \"sudo timedatectl set-ntp true\" on Linux, \"set time automatically\" in the settings of macOS and Windows. If a virtual machine, container or WSL drifted during sleep, restart it."
}

func explainTimeout(e *callError, server string) string {
	if !e.connected {
		return server + " could not be reached in time, so the event was not sent. Check the host and port, and this machine's network, DNS and firewall."
	}
	return server + " did not respond in time, so it is not known whether the event was sent. Try again later, or check this machine's network and " + statusPage(server) + "."
}

// explainFailure explains a call without a complete response.
func explainFailure(err error, server string) string {
	var (
		call        *callError
		dns         *net.DNSError
		unknownCA   x509.UnknownAuthorityError
		wrongName   x509.HostnameError
		invalidCert x509.CertificateInvalidError
		badCert     *tls.CertificateVerificationError
		notTLS      tls.RecordHeaderError
		tooLong     *http.MaxBytesError
	)
	text := err.Error()
	says := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case says("too many open files"), errors.Is(err, wsaEMFILE): // DNS errors have only the text
		return "This program has too many files and connections open, so the event was not sent. Try again in a moment; if it keeps happening, raise the limit on open files (ulimit -n)."
	case errors.As(err, &dns):
		return "The host name of " + server + " could not be looked up, so the event was not sent. Check the spelling of the host or cluster, and this machine's network and DNS."
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, wsaECONNREFUSED):
		return server + " refused the connection, so the event was not sent. Check the host and port, and that the server is running."
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, wsaENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, wsaEHOSTUNREACH):
		return server + " can't be reached from this machine's network, so the event was not sent. Check the network, its firewall and proxy."
	case errors.As(err, &invalidCert) && invalidCert.Reason == x509.Expired:
		return "The TLS certificate of " + server + " has expired or is not valid yet, so the event was not sent. Check this machine's clock first; if it is right, the certificate must be renewed."
	case errors.As(err, &wrongName):
		return "The TLS certificate of " + server + " is for another host name, so the event was not sent. Check the host."
	case errors.As(err, &unknownCA):
		return "The TLS certificate of " + server + " is signed by an unknown authority, so the event was not sent. Install the authority's certificate, or set SSL_CERT_FILE to its file."
	case errors.As(err, &badCert):
		return "The TLS certificate of " + server + " is not valid, so the event was not sent. Check the host, and this machine's clock."
	case errors.As(err, &notTLS), says("server gave HTTP response to HTTPS client"):
		return server + " does not use TLS on that port, so the event was not sent. Use its TLS port, or set http in PUSHER_URL or SECURE = False in app.cfg."
	case errors.As(err, &tooLong), says("malformed HTTP"), says("invalid character"):
		return "The response did not come from the HTTP API of a Channels server. Check the host and port, and whether to use http or https."
	case says("channels' names are invalid"):
		return "The channel name is not valid. Use " + validChannel + "."
	case says("exceeded maximum size"):
		return tooLarge
	case says("encryption key"):
		return "Channels that begin with private-encrypted- need an encryption master key, which this app doesn't have. Use another channel."
	case errors.As(err, &call) && !call.connected:
		return "The connection to " + server + " could not be established, so the event was not sent. Try again; if it keeps happening, check this machine's network and proxy."
	case errors.As(err, &call) && call.wasIdle && !call.responded.Load():
		return server + " closed an idle connection instead of responding, so the event was probably not sent. Try again."
	default:
		return "The connection to " + server + " broke, so it is not known whether the event was sent. Try again; if it keeps happening, check this machine's network and proxy."
	}
}
