// Package pusherapi provides clients with which pusher-http-go calls the HTTP API of a Channels server, over a network
// or in process. Explain says why a call failed and how to fix it.
package pusherapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

const (
	callTimeout = 5 * time.Second // for connecting, sending, and reading the response
	dialTimeout = 3 * time.Second // for resolving the host name and connecting
	maxCalls    = 256             // connections to a host; further calls wait for a free one
	maxResponse = 64 << 10        // bytes; the API's responses are much smaller
)

// NewClient returns a client for calls over a network. A call ends within 5 s. It fails if the status is not 2xx or the
// response is larger than 64 KB, and is never retried, because a retry might send the event twice.
func NewClient() *http.Client { return &http.Client{Transport: newTransport()} }

func newTransport() transport {
	return transport{&http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		// Offer HTTP/1.1 only. Over HTTP/2, all calls would share one connection, and after it died without an error,
		// for example because a firewall forgot it, all of them would fail.
		TLSClientConfig:     &tls.Config{NextProtos: []string{"http/1.1"}},
		TLSHandshakeTimeout: callTimeout - dialTimeout, // so both fit into callTimeout
		MaxConnsPerHost:     maxCalls,
		MaxIdleConnsPerHost: maxCalls,
		// Close idle connections before the server does; by default, nginx and most load balancers wait 60 s or more. A
		// request that is sent as the server closes the connection fails.
		IdleConnTimeout: 30 * time.Second,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, r *http.Response) error {
			if r.StatusCode != http.StatusOK {
				return proxyError(r.StatusCode)
			}
			return nil
		},
	}}
}

// transport makes calls fail as NewClient describes, with a *callError for Explain.
type transport struct{ next *http.Transport }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	var call callError
	// After GotConn, the request may have been sent. WroteRequest would not prove that it was: net/http calls it before
	// it flushes its buffer.
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
	if err == nil && isSuccess(resp.StatusCode) {
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	variable := proxyVariable(r.URL.Scheme)
	if proxy, _ := t.next.Proxy(r); proxy != nil {
		call.proxy = variable
	}
	if !isProxy(os.Getenv(variable)) {
		call.malformed = variable
	}
	if err != nil {
		t.next.CloseIdleConnections() // they may be dead as well
		call.error = err
	} else {
		call.read(resp, body)
	}
	return nil, &call
}

// InProcess returns a client that calls handler directly. A call fails unless the status is 2xx.
func InProcess(handler http.Handler) *http.Client { return &http.Client{Transport: inProcess{handler}} }

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	resp := &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body)}
	if isSuccess(w.status) {
		return resp, nil
	}
	var call callError
	call.read(resp, w.body.Bytes())
	return nil, &call
}

// recorder is an http.ResponseWriter that records the response.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

func isSuccess(status int) bool { return status >= 200 && status <= 299 }

// callError is the error of a failed call. Its text is for the log: it contains no URL, key or signature, but may
// contain a host, and text from the response.
type callError struct {
	error
	proxy     string      // the environment variable with the proxy through which the call went; "" if none
	malformed string      // the environment variable that should contain a proxy, but does not; "" if none
	connected bool        // whether the call got a connection; if not, the request was not sent
	wasIdle   bool        // whether the connection had been idle, after an earlier call
	responded atomic.Bool // whether any byte of a response has arrived; set in another goroutine

	status int       // of the response; 0 if there was no complete response
	date   time.Time // the Date header of the response; zero if there was none
	body   string    // of the response, in lower case
}

// read makes e the error of a call whose response has a status other than 2xx.
func (e *callError) read(resp *http.Response, body []byte) {
	e.connected, e.status, e.body = true, resp.StatusCode, strings.ToLower(string(body))
	e.date, _ = http.ParseTime(resp.Header.Get("Date"))
	// Some servers quote the request. Leave out its parameters, and whatever could be a key or a signature.
	private := regexp.MustCompile(`(auth_[a-z]+|body_md5)=[^&\s"\\]*&?|[[:xdigit:]]{20,}`)
	e.error = fmt.Errorf("status %d: %.200q", resp.StatusCode, private.ReplaceAll(body, []byte("…")))
}

func (e *callError) Unwrap() error { return e.error }

func (e *callError) timedOut() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.error, &timeout) && timeout.Timeout()
}

// proxyError is the status with which a proxy refused a CONNECT request.
type proxyError int

func (status proxyError) Error() string {
	return fmt.Sprintf("the proxy refused CONNECT with status %d", int(status))
}

// proxyVariable returns the name of the environment variable with the proxy for a URL scheme, as net/http reads it.
func proxyVariable(scheme string) string {
	name := strings.ToUpper(scheme) + "_PROXY"
	if lower := strings.ToLower(name); os.Getenv(name) == "" && os.Getenv(lower) != "" {
		return lower
	}
	return name
}

// isProxy reports whether a value is a URL or HOST:PORT. From another value, net/http takes no proxy, or a wrong one.
func isProxy(value string) bool {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	_, err := url.Parse(value)
	return err == nil
}
