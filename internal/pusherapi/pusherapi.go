// Package pusherapi provides transports through which pusher-http-go calls the HTTP API of a
// Channels server, over a network or in process. Explain says why a call failed and how to fix it.
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
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	callTimeout = 5 * time.Second // for connecting, sending, and reading the response
	dialTimeout = 3 * time.Second // for resolving the host name and connecting
	maxResponse = 64 << 10        // bytes; the API's responses are much smaller
)

// NewTransport returns a transport that opens up to maxCalls connections to each host. Each call
// ends within 5 s, and fails if the status is not 2xx or the response is larger than 64 KB.
func NewTransport(maxCalls int) http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	t.TLSHandshakeTimeout = callTimeout - dialTimeout // so both fit into callTimeout
	// Close idle connections before the server does; by default, nginx and most load balancers wait
	// 60 s or more. If a request is sent as the server closes the connection, the request fails,
	// and a retry might send the event twice.
	t.IdleConnTimeout = 30 * time.Second
	t.MaxConnsPerHost = maxCalls
	t.MaxIdleConns, t.MaxIdleConnsPerHost = maxCalls, maxCalls
	t.Protocols = new(http.Protocols) // only HTTP/1: a dead HTTP/2 connection would break all calls
	t.Protocols.SetHTTP1(true)
	t.DisableCompression = true // not worth it for a few bytes
	return limitedTransport{t}
}

type limitedTransport struct{ next http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	var call callError
	// After GotConn, the request may have been sent. WroteRequest would not prove that it was:
	// over HTTP/1, net/http calls it before it flushes its buffer.
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

// respond returns a response if the status is 2xx, and otherwise a *callError for Explain.
func respond(status int, header http.Header, body []byte) (*http.Response, error) {
	if status < 200 || status > 299 {
		date, _ := http.ParseTime(header.Get("Date"))
		return nil, &callError{error: fmt.Errorf("status %d: %s", status, body), status: status, date: date}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(bytes.NewReader(body))}, nil
}

// callError is the error of a failed call. If the status isn't 2xx, its text is the status and the
// body of the response. Don't show or log the text: the body may quote parts of the request.
type callError struct {
	error
	connected bool        // whether the call got a connection; if not, the request was not sent
	wasIdle   bool        // whether the connection had been idle, after an earlier call
	responded atomic.Bool // whether any byte of a response has arrived; set in another goroutine
	status    int         // of the response; 0 if there was no complete response
	date      time.Time   // the Date header of the response; zero if there was none
}

func (e *callError) timedOut() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.error, &timeout) && timeout.Timeout()
}

// clock returns how this machine's clock differs from the server's Date header, such as "1h30m
// behind". If there is no header, or no difference, it returns "ahead of or behind".
func (e *callError) clock() string {
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

// InProcess returns a transport that calls handler directly. A call fails unless the status is 2xx.
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

// Explain returns the HTTP status to respond with after a failed call by pusher-http-go (504 for a
// timeout, otherwise 502), and two or three sentences that say why the call failed and how to fix
// it. Visitors to the page see this text, so it contains no host, URL, key or secret from the
// settings, and no text from the response. The argument server is a name, such as "Pusher".
func Explain(err error, server string) (status int, text string) {
	call, ok := errors.AsType[*callError](err)
	if !ok {
		call = &callError{error: err, connected: true} // from pusher-http-go itself
	}
	status = http.StatusBadGateway
	if call.timedOut() {
		status = http.StatusGatewayTimeout
	}
	i := slices.IndexFunc(causes, func(c cause) bool { return c.applies(call) })
	text = strings.NewReplacer("{server}", server, "{status}", strconv.Itoa(call.status), "{clock}", call.clock()).Replace(causes[i].text)
	return status, strings.ToUpper(text[:1]) + text[1:]
}

// cause is a reason why calls fail, with the text that explains it. In the text, {server} stands
// for the server's name, {status} for the status of its response, and {clock} for callError.clock.
type cause struct {
	applies func(*callError) bool
	text    string
}

// causes contains all causes. Explain uses the first one that applies; the last one always does.
var causes = []cause{
	{says(`^status .*timestamp expired`), "This machine's clock is {clock} the clock of {server}; at most 10 minutes are allowed. Set this machine's clock: run \"sudo timedatectl set-ntp true\" on Linux, or turn on \"Set time automatically\" on macOS and Windows. If the clock of a virtual machine or WSL drifted during sleep, restart it."},
	{says(`^status .*signature`), wrongSecret}, // before auth_key, which its text may contain
	{says(`^status (404|.*(auth_key|app key|app_id|unknown app))`), "{server} does not know this app. Compare the key, the app ID and (for Pusher) the cluster with the App Keys page on the Pusher dashboard, or with the server's configuration."},
	{says(`^status .*(http request to an https server|plain http)`), "{server} requires TLS on that port, so the event was not sent. Use https in PUSHER_URL, or SECURE = True in app.cfg."},
	{says(`^status 401`), wrongSecret},
	{says(`^status 403.*quota`), "{server} refused the event: the app's message quota is used up. Wait until it is renewed (daily with Pusher), or choose a larger plan."},
	{says(`^status 403.*disabled`), "{server} refused the event: this app is disabled. Enable it on the Pusher dashboard, or in the server's configuration."},
	{says(`^status 403`), "{server} refused the event: the app is disabled, over its quota, or not allowed to do this. Check the app on the Pusher dashboard, or in the server's configuration."},
	{says(`^status 413`), tooLarge},
	{says(`^status 4(00|22)`), "{server} refused the event as invalid (status {status}). For the channel name, use " + validChannel + "; for the event name, use 1 to 200 characters, and don't begin it with \"pusher\"."},
	{says(`^status 429`), "{server} refused the event: this app is sending too many events. Wait a moment, then click more slowly."},
	{says(`^status [5-9]`), "{server} reported a server error (status {status}), so it is not known whether the event was sent. Try again later, or check " + serverLog + "."},
	{says(`^status 3`), "{server} redirects to another address (status {status}), so the event was not sent. Check the host and port, and whether to use http or https."},
	{says(`^status`), "{server} refused the event (status {status}). Check the credentials, and that the host and port are those of a Channels server."},

	{func(e *callError) bool { return e.timedOut() && !e.connected }, "{server} could not be reached in time, so the event was not sent. Check the host and port, and this machine's network, DNS and firewall."},
	{(*callError).timedOut, "{server} did not respond in time, so it is not known whether the event was sent. Try again later, or check this machine's network and " + serverLog + "."},

	// The numbers are Windows error codes, which differ from the constants (see listen.Explain).
	{says(`too many open files`), tooManyFiles}, // a DNS error has this text, but no code
	{code(10024), tooManyFiles},                 // WSAEMFILE
	{says(`^proxyconnect`), "The proxy in HTTP_PROXY or HTTPS_PROXY can't be reached, so the event was not sent. Check these environment variables, and that the proxy is running."},
	{is[*net.DNSError], "The host name of {server} could not be resolved, so the event was not sent. Check the spelling of the host or cluster, and this machine's network and DNS."},
	{code(syscall.ECONNREFUSED, 10061), "{server} refused the connection, so the event was not sent. Check the host and port, and that the server is running."},
	{code(syscall.ENETUNREACH, 10051, syscall.EHOSTUNREACH, 10065), "{server} can't be reached from this machine's network, so the event was not sent. Check the network, the firewall and the proxy."},

	{says(`certificate has expired`), "The TLS certificate of {server} has expired or is not valid yet, so the event was not sent. Check this machine's clock first; if it is right, the certificate must be renewed."},
	{is[x509.HostnameError], "The TLS certificate of {server} is for another host name, so the event was not sent. Check the host."},
	{is[x509.UnknownAuthorityError], "The TLS certificate of {server} is signed by an unknown authority, so the event was not sent. Install the authority's certificate or, on Linux, set SSL_CERT_FILE to its file."},
	{is[*tls.CertificateVerificationError], "The TLS certificate of {server} is not valid, so the event was not sent. Check the host, and this machine's clock."},
	{is[tls.RecordHeaderError], "{server} does not use TLS on that port, so the event was not sent. Use its TLS port, or set http in PUSHER_URL or SECURE = False in app.cfg."},
	{says(`malformed HTTP|invalid character|unexpected end of JSON|cannot unmarshal|body too large`), "The response did not come from the HTTP API of a Channels server. Check the host and port, and whether to use http or https."},

	{says(`channels' names are invalid`), "The channel name is not valid. Use " + validChannel + "."},
	{says(`exceeded maximum size`), tooLarge},
	{says(`encryption key`), "Channels that begin with private-encrypted- need an encryption master key, which this app doesn't have. Use another channel."},

	{func(e *callError) bool { return !e.connected }, "The connection to {server} could not be established, so the event was not sent. Try again; if it keeps happening, check this machine's network and proxy."},
	{func(e *callError) bool { return e.wasIdle && !e.responded.Load() }, "{server} closed an idle connection instead of responding, so the event was probably not sent. Try again."},
	{says(``), "The connection to {server} was lost, so it is not known whether the event was sent. Try again; if it keeps happening, check this machine's network and proxy."},
}

const (
	wrongSecret  = "{server} refused the signature: the secret is wrong, or belongs to another key. Copy the key and the secret again from the same Channels app or, if that server is another pusher-sample, from the PUSHER_URL that it prints now."
	tooLarge     = "The event is too large. Send at most 10 KB of data, or a link to the data."
	tooManyFiles = "This program has too many files and connections open, so the event was not sent. Try again in a moment; if it keeps happening, raise the limit on open files (ulimit -n)."
	validChannel = "1 to 164 characters (A-Z a-z 0-9 _ - = @ , . ;)"
	serverLog    = "the server's log (for Pusher, status.pusher.com)"
)

// says returns a function that reports whether a call's error text matches pattern, ignoring case.
func says(pattern string) func(*callError) bool {
	p := regexp.MustCompile("(?is)" + pattern)
	return func(e *callError) bool { return p.MatchString(e.Error()) }
}

// code returns a function that reports whether a call's error is one of these system errors.
func code(codes ...syscall.Errno) func(*callError) bool {
	return func(e *callError) bool {
		errno, ok := errors.AsType[syscall.Errno](e.error)
		return ok && slices.Contains(codes, errno)
	}
}

// is reports whether the call's error is or wraps an E.
func is[E error](e *callError) bool {
	_, ok := errors.AsType[E](e.error)
	return ok
}
