// Package pusherapi limits the calls of pusher-http-go to the HTTP API of a Pusher Channels
// server, and explains failed calls. NewTransport and InProcess return transports for
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
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	callTimeout = 5 * time.Second           // for connecting, sending, and reading the response
	dialTimeout = 3 * time.Second           // for DNS and TCP
	tlsTimeout  = callTimeout - dialTimeout // so that no dial outlives its call
	idleTimeout = 30 * time.Second          // shorter than the 60 s or more of nginx and load balancers
	maxResponse = 64 << 10                  // bytes; the API's responses are a few
)

// NewTransport returns a transport that allows up to maxCalls concurrent calls to one host. A
// call ends within 5 s and reads at most 64 KB. A status other than 2xx is an error.
func NewTransport(maxCalls int) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	t.TLSHandshakeTimeout = tlsTimeout
	// Close idle connections before the server does: a request sent during the close
	// fails, and retrying it might send the event twice.
	t.IdleConnTimeout = idleTimeout
	t.MaxConnsPerHost = maxCalls
	t.MaxIdleConns, t.MaxIdleConnsPerHost = maxCalls, maxCalls
	t.DisableCompression = true // responses have only a few bytes
	return limitedTransport{t}
}

type limitedTransport struct{ next http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	var call callError
	// WroteRequest would tell no more than GotConn, because net/http calls it before the last
	// bytes leave its buffer.
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

// callError is the error of a call without a complete response.
type callError struct {
	error
	connected bool        // false if the request was never sent
	wasIdle   bool        // whether the connection was idle before
	responded atomic.Bool // whether the server sent any byte of a response
}

func (e *callError) Unwrap() error { return e.error }

// statusError is the error of a call whose response has a status other than 2xx.
type statusError struct {
	status int
	body   string    // not for display
	date   time.Time // by the server's clock; zero if unknown
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the API responded with status %d", e.status)
}

// InProcess returns a transport that calls handler directly, without a network, so that
// pusher-http-go can trigger events on an embedded server. A status other than 2xx is an error.
func InProcess(handler http.Handler) http.RoundTripper { return inProcess{handler} }

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	return respond(w.status, w.header, w.Bytes())
}

// recorder is an http.ResponseWriter that records the response.
type recorder struct {
	bytes.Buffer
	header http.Header
	status int
}

func (w *recorder) Header() http.Header    { return w.header }
func (w *recorder) WriteHeader(status int) { w.status = status }

// Explain says in one or two sentences why a call of pusher-http-go failed and how to
// fix it, and returns the HTTP status to respond with: 504 for a timeout, else 502.
// Visitors of the page see this text, so it contains no host, URL, key or secret, and nothing
// that the server sent. The argument server is "Pusher", or a name such as "the Channels
// server".
func Explain(err error, server string) (status int, text string) {
	var (
		call    *callError
		refused *statusError
		timeout interface{ Timeout() bool }
	)
	status = http.StatusBadGateway
	switch {
	case errors.As(err, &refused):
		text = refused.explain()
	case errors.As(err, &call) && errors.As(call.error, &timeout) && timeout.Timeout():
		status, text = http.StatusGatewayTimeout, "{server} did not respond in time, so it is not known whether the event was sent. Try again later, or check this machine's network and "+serverLog+"."
		if !call.connected {
			text = "{server} could not be reached in time, so the event was not sent. Check the host and port, and this machine's network, DNS and firewall."
		}
	default:
		text = explainFailure(err, call)
	}
	text = strings.ReplaceAll(text, "{server}", server)
	return status, strings.ToUpper(text[:1]) + text[1:]
}

// refusals explain responses with a status other than 2xx. The first whose pattern matches
// the status and the body, with a space between them, counts.
var refusals = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`(?i)timestamp expired`), "This machine's clock is {off} the clock of {server}; at most 10 minutes are allowed. Set it: run \"sudo timedatectl set-ntp true\" on Linux, or turn on \"Set time automatically\" on macOS and Windows. If the clock of a virtual machine or WSL drifted during sleep, restart it."},
	{regexp.MustCompile(`(?i)signature`), wrongSecret}, // before auth_key, which such errors mention too
	{regexp.MustCompile(`(?i)^404|auth_key|app key|app_id|unknown app`), "{server} does not know this app: the key, the app ID or, with Pusher, the cluster is wrong. Compare them with the App Keys page on the Pusher dashboard, or with that server's configuration."},
	{regexp.MustCompile(`(?i)http request to an https server|plain http`), "{server} requires TLS on that port, so the event was not sent. Use https in PUSHER_URL, or SECURE = True in app.cfg."},
	{regexp.MustCompile(`^401`), wrongSecret},
	{regexp.MustCompile(`(?is)^403.*quota`), "{server} refused the event: the app's message quota is used up. Wait until it is renewed (daily with Pusher), or choose a larger plan."},
	{regexp.MustCompile(`(?is)^403.*disabled`), "{server} refused the event: this app is disabled. Enable it on the Pusher dashboard, or in the server's configuration."},
	{regexp.MustCompile(`^403`), "{server} refused the event: the app is disabled, over its quota, or not allowed to do this. Check the app on the Pusher dashboard, or in the server's configuration."},
	{regexp.MustCompile(`^413`), tooLarge},
	{regexp.MustCompile(`^4(00|22)`), "{server} refused the event as invalid (status {status}). Use " + validChannel + " for the channel; at most 200 characters, not beginning with \"pusher\", for the event."},
	{regexp.MustCompile(`^429`), "{server} refused the event: this app is sending too many events. Wait a moment, then click more slowly."},
	{regexp.MustCompile(`^[5-9]`), "{server} had a server error (status {status}), so it is not known whether the event was sent. Try again later, or check " + serverLog + "."},
	{regexp.MustCompile(`^3`), "{server} redirects to another address (status {status}), so the event was not sent. Check the host and port, and whether to use http or https."},
}

const (
	wrongSecret  = "{server} refused the signature: the secret is wrong, or belongs to another key. Copy both key and secret again from the app's configuration."
	validChannel = "only A-Z a-z 0-9 _ - = @ , . ; and at most 164 characters"
	tooLarge     = "The event is too large. Send at most 10 KB of data, or a link to the data."
	serverLog    = "the server's log (for Pusher, status.pusher.com)"
)

func (e *statusError) explain() string {
	text := "{server} refused the event (status {status}). Check the credentials, and that the host and port are those of a Channels server."
	response := fmt.Sprint(e.status, " ", e.body)
	for _, refusal := range refusals {
		if refusal.pattern.MatchString(response) {
			text = refusal.text
			break
		}
	}
	return strings.NewReplacer("{status}", strconv.Itoa(e.status), "{off}", e.clock()).Replace(text)
}

// clock says how far this machine's clock is off, by the Date header of the response.
func (e *statusError) clock() string {
	ahead := time.Since(e.date).Round(time.Minute)
	amount := strings.TrimSuffix(ahead.Abs().String(), "0s") // such as 1h30m
	switch {
	case e.date.IsZero(), ahead == 0:
		return "ahead of or behind"
	case ahead < 0:
		return amount + " behind"
	default:
		return amount + " ahead of"
	}
}

// explainFailure explains a call without a complete response.
func explainFailure(err error, call *callError) string {
	errno, _ := errors.AsType[syscall.Errno](err)
	invalidCert, _ := errors.AsType[x509.CertificateInvalidError](err)
	says := func(part string) bool { return strings.Contains(err.Error(), part) }
	// The numbers are Windows error codes: there, syscall.ECONNREFUSED and the like have
	// invented values that no error has. 10024 is WSAEMFILE, 10051 is WSAENETUNREACH,
	// 10061 is WSAECONNREFUSED, and 10065 is WSAEHOSTUNREACH.
	switch {
	case says("too many open files"), errno == 10024: // DNS errors have only the text
		return "This program has too many files and connections open, so the event was not sent. Try again in a moment; if it keeps happening, raise the limit on open files (ulimit -n)."
	case is[*net.DNSError](err):
		return "The host name of {server} could not be looked up, so the event was not sent. Check the spelling of the host or cluster, and this machine's network and DNS."
	case errno == syscall.ECONNREFUSED, errno == 10061:
		return "{server} refused the connection, so the event was not sent. Check the host and port, and that the server is running."
	case errno == syscall.ENETUNREACH, errno == 10051, errno == syscall.EHOSTUNREACH, errno == 10065:
		return "{server} can't be reached from this machine's network, so the event was not sent. Check the network, the firewall and the proxy."
	case invalidCert.Reason == x509.Expired:
		return "The TLS certificate of {server} has expired or is not valid yet, so the event was not sent. Check this machine's clock first; if it is right, the certificate must be renewed."
	case is[x509.HostnameError](err):
		return "The TLS certificate of {server} is for another host name, so the event was not sent. Check the host."
	case is[x509.UnknownAuthorityError](err):
		return "The TLS certificate of {server} is signed by an unknown authority, so the event was not sent. Install the authority's certificate, or set SSL_CERT_FILE to its file."
	case is[*tls.CertificateVerificationError](err):
		return "The TLS certificate of {server} is not valid, so the event was not sent. Check the host, and this machine's clock."
	case is[tls.RecordHeaderError](err), says("server gave HTTP response to HTTPS client"):
		return "{server} does not use TLS on that port, so the event was not sent. Use its TLS port, or set http in PUSHER_URL or SECURE = False in app.cfg."
	case is[*http.MaxBytesError](err), says("malformed HTTP"), says("invalid character"):
		return "The response did not come from the HTTP API of a Channels server. Check the host and port, and whether to use http or https."
	case says("channels' names are invalid"):
		return "The channel name is not valid. Use " + validChannel + "."
	case says("exceeded maximum size"):
		return tooLarge
	case says("encryption key"):
		return "Channels that begin with private-encrypted- need an encryption master key, which this app doesn't have. Use another channel."
	case call != nil && !call.connected:
		return "The connection to {server} could not be established, so the event was not sent. Try again; if it keeps happening, check this machine's network and proxy."
	case call != nil && call.wasIdle && !call.responded.Load():
		return "{server} closed an idle connection instead of responding, so the event was probably not sent. Try again."
	default:
		return "The connection to {server} broke, so it is not known whether the event was sent. Try again; if it keeps happening, check this machine's network and proxy."
	}
}

// is reports whether err is or wraps an error of type E.
func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
