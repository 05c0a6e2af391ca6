// Package pusherapi provides clients with which pusher-http-go calls the HTTP API of a Channels server, over a network
// or in process. Explain says why a call failed and how to fix it.
package pusherapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

const (
	callTimeout = 5 * time.Second // for connecting, sending, and reading the response
	dialTimeout = 3 * time.Second // for resolving the host name and connecting
	maxCalls    = 256             // connections to a host; further calls wait for a free one
	maxResponse = 64 << 10        // bytes that are read of a response; the API's responses are much smaller
)

// NewClient returns a client for calls over a network. A call ends within 5 s. It fails if the status is not 2xx, and
// never sends the event twice.
func NewClient() *http.Client {
	return &http.Client{Transport: transport{newTransport()}}
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		// Offer HTTP/1.1 only. Over HTTP/2, all calls would share one connection, and after it died without an error, for
		// example because a firewall forgot it, all of them would fail.
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
	}
}

// InProcess returns a client that calls handler directly. A call fails if the status is not 2xx.
func InProcess(handler http.Handler) *http.Client {
	return &http.Client{Transport: transport{inProcess{handler}}}
}

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	t.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// transport makes calls fail as NewClient describes, with a *callError for Explain.
type transport struct{ next http.RoundTripper }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	var call callError
	// After GotConn, the request may have been sent. WroteRequest would not prove that it was: net/http calls it before
	// it flushes its buffer.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { call.connected = true },
	})
	var body []byte
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	}
	if err == nil && resp.StatusCode/100 == 2 {
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	call.error = err
	if err != nil {
		(&http.Client{Transport: t.next}).CloseIdleConnections() // they may be dead as well
	} else {
		call.read(resp, body)
	}
	if network, ok := t.next.(*http.Transport); ok {
		variable := proxyVariable(r.URL.Scheme)
		proxy, _ := network.Proxy(r)
		if proxy != nil && (err != nil || r.URL.Scheme == "http") { // otherwise, the response came through a tunnel
			call.proxy = variable
		}
		if !isProxy(os.Getenv(variable)) {
			call.malformed = variable
		}
	}
	return nil, &call
}

// callError is the error of a failed call. Its text is for the log: it contains no URL, key or signature, but may
// contain a host, and text from the response.
type callError struct {
	error
	connected bool   // whether the call got a connection; if not, the request was not sent
	proxy     string // the environment variable with the proxy through which the call went; "" if none
	malformed string // the environment variable that should contain a proxy, but does not; "" if none

	status int       // of the response; 0 if there was no complete response
	date   time.Time // the Date header of the response; zero if there was none
	body   string    // of the response, in lower case
}

// read makes e the error of a call whose response has a status other than 2xx.
func (e *callError) read(resp *http.Response, body []byte) {
	e.status, e.body = resp.StatusCode, strings.ToLower(string(body))
	e.date, _ = http.ParseTime(resp.Header.Get("Date"))
	// Some servers quote the request. Leave out its parameters, and whatever could be a key or a signature.
	private := regexp.MustCompile(`(auth_[a-z]+|body_md5)(=|"\s*:\s*")[^&\s"\\]*&?|[[:xdigit:]]{20,}`)
	e.error = fmt.Errorf("status %d: %.200q", resp.StatusCode, private.ReplaceAll(body, []byte("…")))
}

func (e *callError) Unwrap() error { return e.error }

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
