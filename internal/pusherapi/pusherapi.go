// Package pusherapi provides clients with which pusher-http-go calls the HTTP API of a Channels server, over a network
// or in process. Explain says why a call failed and how to fix it.
package pusherapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
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

	"github.com/pusher/pusher-http-go/v5"
)

const (
	callTimeout = 5 * time.Second // for connecting, sending, and reading the response
	dialTimeout = 3 * time.Second // for resolving the host name and connecting
	maxCalls    = 256             // connections to a host; further calls wait for a free one
	maxResponse = 64 << 10        // bytes to read from a response; the API's responses are much smaller
)

// NewClient returns a client for calls over a network. A call ends within 5 s. It fails unless the server confirms that
// it has accepted the event, and never sends the event twice.
func NewClient() *http.Client {
	return &http.Client{Transport: transport{newTransport()}}
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		// Offer HTTP/1.1 only. Over HTTP/2, all calls would share one connection. If it died without an error, for
		// example because a firewall dropped it, all of them would fail.
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

// InProcess returns a client that calls handler directly, without a network. A call fails unless handler confirms that
// it has accepted the event.
func InProcess(handler http.Handler) *http.Client {
	return &http.Client{Transport: transport{inProcess{handler}}}
}

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	t.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// transport makes calls fail as NewClient describes, with a *callError for Explain. It also judges the response, because
// pusher-http-go reports only the text of an unexpected one.
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
	if err == nil && resp.StatusCode/100 == 2 && json.Unmarshal(body, new(pusher.TriggerChannelsList)) == nil {
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	call.error = err
	if err == nil {
		call.setResponse(resp, body)
	}
	if network, ok := t.next.(*http.Transport); ok {
		if err != nil {
			network.CloseIdleConnections() // they may be dead as well
		}
		call.noteProxy(network, r)
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

	status int    // of the response; 0 if there was no complete response
	body   string // of the response, in lower case
	clock  string // of the server, such as ", which shows Mon, 02 Jan 2006 15:04:05 GMT"; "" if not known
}

func (e *callError) Unwrap() error { return e.error }

// setResponse sets e to describe an unexpected response.
func (e *callError) setResponse(resp *http.Response, body []byte) {
	// Some servers quote the request. Leave out its parameters, and whatever could be a key or a signature.
	private := regexp.MustCompile(`(auth_[a-z]+|body_md5)(=|"\s*:\s*")[^&\s"\\]*&?|[[:xdigit:]]{20,}`)
	body = private.ReplaceAll(body, []byte("…"))
	e.status, e.body = resp.StatusCode, strings.ToLower(string(body))
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		e.clock = ", which shows " + date.Format(http.TimeFormat)
	}
	e.error = fmt.Errorf("status %d: %.200q", resp.StatusCode, body)
}

// noteProxy notes the proxy through which the request r went, or could not go.
func (e *callError) noteProxy(network *http.Transport, r *http.Request) {
	variable, valid := proxyVariable(r.URL.Scheme)
	proxy, _ := network.Proxy(r)
	if proxy != nil && (e.status == 0 || r.URL.Scheme == "http") { // otherwise, the response came through a tunnel
		e.proxy = variable
	}
	if !valid && !e.connected {
		e.malformed = variable
	}
}

// proxyError is the status with which a proxy refused a CONNECT request.
type proxyError int

func (status proxyError) Error() string {
	return fmt.Sprintf("the proxy refused CONNECT with status %d", int(status))
}

// proxyVariable returns the name of the environment variable with the proxy for a URL scheme, as net/http reads it, and
// whether its value is a URL or HOST:PORT. With any other value, net/http uses no proxy, or a wrong one.
func proxyVariable(scheme string) (name string, valid bool) {
	name = strings.ToUpper(scheme) + "_PROXY"
	if os.Getenv(name) == "" {
		name = strings.ToLower(name)
	}
	value := os.Getenv(name)
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	_, err := url.Parse(value)
	return name, err == nil
}
