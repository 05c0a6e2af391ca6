// Tests the explanation of each failed call, and whether its event arrived. The calls go through pusher-http-go to real
// servers on loopback or, if time matters, to servers in a synctest bubble.
package pusherapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/pusher/pusher-http-go/v5"
)

const secret = "hush-hush"

// newClient returns a client for the Channels server at url.
func newClient(url string, network http.RoundTripper) *pusher.Client {
	scheme, host, _ := strings.Cut(url, "://")
	return &pusher.Client{
		AppID: "1", Key: "k", Secret: secret, Host: host, Secure: scheme == "https",
		HTTPClient: &http.Client{Transport: transport{network}},
	}
}

// trigger triggers an event over a network.
func trigger(url string, network http.RoundTripper) error {
	return newClient(url, network).Trigger("c", "e", "d")
}

// triggerIn triggers an event in a handler.
func triggerIn(handler http.HandlerFunc) error {
	client := newClient("http://x", nil)
	client.HTTPClient = InProcess(handler)
	return client.Trigger("c", "e", "d")
}

// wantExplained checks that err is not nil, and that Explain explains it, for two server names, with this status and
// with sentences that contain text, but no credentials or addresses.
func wantExplained(t *testing.T, err error, status int, text string) {
	t.Helper()
	if err == nil {
		t.Fatal("the call succeeded")
	}
	for _, server := range []string{"Pusher", "the Channels server"} {
		gotStatus, got := Explain(err, server)
		if gotStatus != status || !strings.Contains(got, text) {
			t.Errorf("explained as %d %q; want %d with %q", gotStatus, got, status, text)
		}
		for _, leak := range []string{secret, "auth_signature", "://", "127.0.0.1", "<", "{", "\n"} {
			if strings.Contains(got, leak) {
				t.Errorf("%q is in %q", leak, got)
			}
		}
		if len(got) > 400 || !strings.HasSuffix(got, ".") || got[:1] != strings.ToUpper(got[:1]) {
			t.Errorf("not a few short sentences: %q", got)
		}
	}
}

// Explain explains an error response by its status and by known phrases in its body. The call is never retried.
func TestErrorStatus(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"unknown key", 400, "Unknown auth_key", "does not know this app"},
		{"unknown app, Reverb", 404, "No matching application for ID [1].", "does not know this app"},
		{"unknown app, soketi", 404, `{"error":"The app 1 could not be found.","code":404}`, "does not know this app"},
		{"wrong secret", 401, `Invalid signature: you should have sent HmacSHA256Hex("POST\n/apps/1/events\nauth_key=k", your_secret_key), but you sent "x"`, "the secret is wrong"},
		{"wrong secret, soketi", 401, `{"error":"The secret authentication failed","code":401}`, "the secret is wrong"},
		{"clock", 401, "Timestamp expired: Given timestamp (2013-06-17T15:39:38Z) not within 600s of server time (2013-06-17T17:09:21Z)", "clock is ahead of or behind the clock of"},
		{"quota", 403, "API call failed since (daily) message quota exceeded", "message quota is used up"},
		{"disabled", 403, "App disabled", "(status 403): the app is disabled, over its quota, or not allowed to do this"},
		{"too large", 413, "The data content of this event exceeds the allowed maximum (10240 bytes).", "Send at most 10 KB of data"},
		{"too many", 429, "", "Wait a moment"},
		{"server error", 500, "<script>alert(1)</script>", "reported a server error (status 500), so it is not known whether the event was sent. Try again later, or check "},
		{"redirect", 302, "", "responded with status 302 and did not accept the event"},
		{"invalid channel", 400, "Invalid channel name", "1 to 164 characters (A-Z"},
		{"plain HTTP, nginx", 400, "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head>", "requires TLS"},
		{"plain HTTP, Apache", 400, "Reason: You're speaking plain HTTP to an SSL-enabled server port.", "requires TLS"},
		{"login page", 401, "<html>Basic realm</html>", "responded with status 401 and did not accept"},
		{"unknown key, 401", 401, "Unknown auth_key", "does not know this app"},
		{"web server without the API", 404, "<html>404 Not Found</html>", "responded with status 404 and did not accept the event"},
		{"another server's page", 200, "<html>", "not come from the HTTP API"},
		{"array", 200, "[]", "not come from the HTTP API"},
		{"endless", 200, strings.Repeat(" ", 1<<20), "not come from the HTTP API"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			requests := 0
			wantExplained(t, triggerIn(func(w http.ResponseWriter, r *http.Request) {
				requests++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}), 502, tt.want)
			if requests != 1 {
				t.Errorf("the server received %d requests, want 1", requests)
			}
		})
	}
}

// Explain says how far the clock is off if the response has a Date header.
func TestClock(t *testing.T) {
	const second = time.Second // the resolution of Date
	for _, tt := range []struct {
		date time.Duration // of the response, from now; 0 means no Date header
		want string
	}{
		{90*time.Minute + second, "clock is 1h30m behind the clock of"},
		{-3*time.Hour + second, "clock is 3h0m ahead of the clock of"},
		{2 * second, "clock is ahead of or behind the clock of"},
		{0, "clock is ahead of or behind the clock of"},
	} {
		wantExplained(t, triggerIn(func(w http.ResponseWriter, r *http.Request) {
			if tt.date != 0 {
				w.Header().Set("Date", time.Now().Add(tt.date).UTC().Format(http.TimeFormat))
			}
			http.Error(w, "Timestamp expired", http.StatusUnauthorized)
		}), 502, tt.want)
	}
}

// Explain also explains events that pusher-http-go refuses to send, with its own text if it knows no better one. The
// log has that text.
func TestRefusedByClient(t *testing.T) {
	client := newClient("http://x", inProcess{http.NotFoundHandler()})
	for _, tt := range []struct {
		err       error
		want, log string
	}{
		{client.Trigger("ä", "e", "d"), "The channel name is not valid", "channels' names are invalid"},
		{client.Trigger("c", "e", strings.Repeat("x", 10<<10+1)), "Send at most 10 KB of data", "10241 bytes"},
		{client.Trigger("private-encrypted-c", "e", "d"), "The event was not sent: No master encryption key supplied. Correct what", "No master encryption key"},
		{client.Trigger("c", "e", make(chan int)), "The event was not sent: json: unsupported type: chan int. Correct what", "chan int"},
	} {
		wantExplained(t, tt.err, 500, tt.want)
		if cause := Cause(tt.err).Error(); !strings.Contains(cause, tt.log) {
			t.Errorf("the log has %q, want %q", cause, tt.log)
		}
	}
}

// If a call gets no connection, the explanation names the cause, and says that the event was not sent.
func TestNoConnection(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := pushertest.NewTLSServer(t, http.NotFoundHandler())
	closed := httptest.NewServer(nil)
	closed.Close()
	failing := func(err error) http.RoundTripper {
		return withDial(newTransport(), func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		})
	}
	code := func(errno syscall.Errno) http.RoundTripper { return failing(os.NewSyscallError("connect", errno)) }
	checking := func(now time.Time, host string) http.RoundTripper {
		transport := newTransport()
		config := secure.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		config.Time = func() time.Time { return now }
		config.ServerName = host
		transport.TLSClientConfig = config
		return transport
	}
	tests := []struct {
		name      string
		url       string
		transport http.RoundTripper
		want      string
	}{
		{"refused", closed.URL, newTransport(), "refused the connection, so the event was not sent"},
		{"refused, by the code on Windows", "http://x", code(10061), "refused the connection, so the event was not sent"},
		{"unknown host", "http://x", failing(&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}), "could not be resolved, so the event was not sent"},
		{"network unreachable", "http://x", code(syscall.ENETUNREACH), "can't be reached from this machine's network, so the event was not sent"},
		{"network unreachable, by the code on Windows", "http://x", code(10051), "can't be reached from this machine's network"},
		{"host unreachable", "http://x", code(syscall.EHOSTUNREACH), "can't be reached from this machine's network"},
		{"host unreachable, by the code on Windows", "http://x", code(10065), "can't be reached from this machine's network"},
		{"no descriptor", "http://x", code(syscall.EMFILE), "too many files and connections open, so the event was not sent"},
		{"no descriptor for DNS", "http://x", failing(&net.DNSError{Err: "dial udp: socket: too many open files", Name: "x"}), "too many files and connections open"},
		{"no descriptor, by the code on Windows", "http://x", code(10024), "too many files and connections open"},
		{"proxy that is down", "https://api-eu.pusher.com", withProxy(newTransport(), closed.URL), "The proxy in HTTPS_PROXY can't be reached, so the event was not sent"},
		{"plain HTTP through a proxy that is down", "http://api-eu.pusher.com", withProxy(newTransport(), closed.URL), "The proxy in HTTP_PROXY can't be reached, so the event was not sent"},
		{"another error", "http://x", failing(io.EOF), "could not be established, so the event was not sent"},
		{"TLS to a plain port", strings.Replace(plain.URL, "http:", "https:", 1), newTransport(), "http in PUSHER_URL or SECURE = False in app.cfg"},
		{"plain to a TLS port", strings.Replace(secure.URL, "https:", "http:", 1), newTransport(), "https in PUSHER_URL, or SECURE = True in app.cfg"},
		{"unknown authority", secure.URL, newTransport(), "signed by an unknown authority, so the event was not sent"},
		{"expired certificate", secure.URL, checking(time.Now().AddDate(200, 0, 0), ""), "Check this machine's clock first"},
		{"certificate of another host", secure.URL, checking(time.Now(), "elsewhere.test"), "is not valid for this host, so the event was not sent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantExplained(t, trigger(tt.url, tt.transport), 502, tt.want)
		})
	}
}

// trusting returns a transport that trusts a test server's certificate and is otherwise the program's: replacing its
// TLS configuration would hide which protocols it offers.
func trusting(server *httptest.Server) *http.Transport {
	transport := newTransport()
	transport.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return transport
}

// secureServers calls test with a server that supports HTTP/2 and one that does not. Calls must use HTTP/1.1.
func secureServers(t *testing.T, test func(t *testing.T, server *httptest.Server)) {
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprint("HTTP/2 ", http2), func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "POST" && r.ProtoMajor != 1 {
					t.Errorf("the server received a call over %s", r.Proto)
				}
				io.WriteString(w, "{}")
			}))
			server.EnableHTTP2 = http2
			server.StartTLS()
			t.Cleanup(server.Close)
			resp, err := server.Client().Get(server.URL)
			if err != nil || (resp.ProtoMajor == 2) != http2 {
				t.Fatalf("the server doesn't speak the expected protocol: %v %v", resp, err)
			}
			resp.Body.Close()
			test(t, server)
		})
	}
}

// Calls over HTTPS work whether or not the server supports HTTP/2, directly and through a CONNECT proxy.
func TestHTTPS(t *testing.T) {
	secureServers(t, func(t *testing.T, server *httptest.Server) {
		for _, transport := range []*http.Transport{trusting(server), withProxy(trusting(server), newProxy(t, 0))} {
			for range 3 {
				if err := trigger(server.URL, transport); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// If all idle connections have died silently, one call times out, and the next ones use new connections. Over HTTP/2,
// all calls would share a dead connection.
func TestDeadConnections(t *testing.T) {
	secureServers(t, func(t *testing.T, server *httptest.Server) {
		const connections = 4
		var mu sync.Mutex
		var open []*silencer
		all := make(chan bool)
		transport := withDial(trusting(server), func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := net.Dial(network, addr)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || len(open) == connections {
				return conn, err
			}
			silenced := &silencer{Conn: conn, start: all}
			if open = append(open, silenced); len(open) == connections {
				close(all)
			}
			return silenced, nil
		})
		client := newClient(server.URL, transport)
		var calls sync.WaitGroup
		for range connections {
			calls.Go(func() {
				if err := client.Trigger("c", "e", "d"); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		for _, conn := range open {
			conn.silent.Store(true)
		}
		wantExplained(t, client.Trigger("c", "e", "d"), 504, "did not respond in time")
		for range 3 {
			if err := client.Trigger("c", "e", "d"); err != nil {
				t.Errorf("a call after the timeout: %v", err)
			}
		}
	})
}

// silencer is a connection that waits for start before it sends, and can stop sending without an error.
type silencer struct {
	net.Conn
	start  chan bool
	silent atomic.Bool
}

func (s *silencer) Write(b []byte) (int, error) {
	<-s.start
	if s.silent.Load() {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

// withDial replaces the dial function of a transport, and returns the transport.
func withDial(
	transport *http.Transport, dial func(ctx context.Context, network, addr string) (net.Conn, error),
) *http.Transport {
	transport.DialContext = dial
	return transport
}

// withProxy sets the proxy of a transport, and returns the transport. [http.ProxyFromEnvironment] reads the environment
// only once, and never returns a proxy for loopback addresses.
func withProxy(transport *http.Transport, address string) *http.Transport {
	transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(address) }
	return transport
}

// newProxy starts a proxy that connects to any host, or refuses all requests with a status, and returns its URL.
func newProxy(t *testing.T, refusal int) string {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusal != 0 {
			http.Error(w, "<b>not through this proxy</b>", refusal)
			return
		}
		server, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			t.Errorf("%s %s: %v", r.Method, r.Host, err)
			return
		}
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(client, server)
			client.Close()
		}()
		io.Copy(server, client)
		server.Close()
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// If a proxy refuses a call, the explanation names the environment variable and the status.
func TestProxyRefuses(t *testing.T) {
	for _, tt := range []struct {
		url    string
		status int
		want   string
	}{
		{"https://api-eu.pusher.com", 407, "The proxy in HTTPS_PROXY requires a user name and a password (status 407), so the event was not sent"},
		{"https://api-eu.pusher.com", 403, "The proxy in HTTPS_PROXY did not connect to "},
		{"http://example.org", 407, "The proxy in HTTP_PROXY requires a user name and a password (status 407), so the event was not sent"},
		{"http://example.org", 403, " or the proxy in HTTP_PROXY responded with status 403"},
		{"http://example.org", 503, " or the proxy in HTTP_PROXY responded with status 503, so it is not known whether the event was sent"},
	} {
		t.Run(fmt.Sprint(tt.url, " ", tt.status), func(t *testing.T) {
			err := trigger(tt.url, withProxy(newTransport(), newProxy(t, tt.status)))
			wantExplained(t, err, 502, tt.want)
			if cause := Cause(err).Error(); !strings.Contains(cause, fmt.Sprint(tt.status)) {
				t.Errorf("the log has %q, want the status", cause)
			}
		})
	}
}

// The explanation names the variable that net/http reads: the one in lower case counts if the other is empty.
func TestProxyVariable(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "")
	t.Setenv("https_proxy", "http://proxy.example")
	err := trigger("https://api-eu.pusher.com", withProxy(newTransport(), newProxy(t, 403)))
	wantExplained(t, err, 502, "The proxy in https_proxy did not connect")
}

// If a call gets no connection, and the proxy in the environment is not a URL, the explanation says so first.
func TestProxyIsNotURL(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	for value, malformed := range map[string]bool{
		"http://user:50%off@proxy.example:8080": true,
		"http://proxy.example:port":             true,
		"proxy.example:8080":                    false,
		"":                                      false,
	} {
		t.Setenv("HTTP_PROXY", value)
		err := trigger(closed.URL, newTransport())
		_, text := Explain(err, "Pusher")
		if got := strings.HasPrefix(text, "The environment variable HTTP_PROXY is not a URL"); got != malformed ||
			!strings.Contains(text, "Pusher refused the connection") || strings.Contains(text, "50%") {
			t.Errorf("HTTP_PROXY=%s: %s", value, text)
		}
	}
}

// The error for the log has the status and the response, but no URL, key or signature.
func TestCause(t *testing.T) {
	const key = "278d425bdf160c739803"
	quoteJSON := func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, `{"error":"no app","auth_key": "my-own-key","body_md5":"x"}`, http.StatusNotFound)
	}
	quote := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		http.Error(w, fmt.Sprintf("Invalid signature of %q for %s: %s %s", "POST\n"+r.URL.Path+"\n"+r.URL.RawQuery, key,
			r.URL.Query().Get("auth_signature"), body), http.StatusUnauthorized)
	}
	drop := func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }
	for want, handler := range map[string]http.HandlerFunc{
		"status 401: \"Invalid signature of": quote,
		"status 404: \"{\\\"error":           quoteJSON,
		"EOF":                                drop,
	} {
		server := httptest.NewServer(handler)
		defer server.Close()
		client := newClient(server.URL, newTransport())
		client.Key = key
		cause := Cause(client.Trigger("c", "e", "d")).Error()
		if !strings.Contains(cause, want) {
			t.Errorf("got %q, want %q in it", cause, want)
		}
		if leak := regexp.MustCompile(key + `|my-own|auth_|body_md5|[0-9a-f]{32}|` + secret).FindString(cause); leak != "" {
			t.Errorf("%q is in %q", leak, cause)
		}
	}
}

// A call times out, and closes its connection, wherever it gets stuck.
func TestTimeouts(t *testing.T) {
	const notSent, notKnown = "could not be reached in time, so the event was not sent", "did not respond in time"
	resolver := net.DefaultResolver
	defer func() { net.DefaultResolver = resolver }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	net.DefaultResolver.LookupHost(canceled, "example.invalid") // reads the configuration outside of the bubble
	for _, tt := range []struct {
		name string
		call func(t *testing.T) error
		took time.Duration
		want string
	}{
		{"name server", func(t *testing.T) error { return trigger("http://example.invalid", newTransport()) }, dialTimeout, notSent},
		{"TLS handshake", func(t *testing.T) error {
			return trigger("https://x", withDial(newTransport(), func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(dialTimeout)
				client, server := net.Pipe()
				go io.Copy(io.Discard, server) // until the client closes the connection
				return client, nil
			}))
		}, callTimeout, notSent},
		{"no response", func(t *testing.T) error {
			return serve(t, 0, 0, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			}).Trigger("c", "e", "d")
		}, 5 * time.Second, notKnown},
		{"no end of the response", func(t *testing.T) error {
			return serve(t, 0, 0, func(w http.ResponseWriter, r *http.Request) {
				accept(new(atomic.Int32))(w, r)
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}).Trigger("c", "e", "d")
		}, 5 * time.Second, notKnown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				wantExplained(t, tt.call(t), 504, tt.want)
				if took := time.Since(start); took != tt.took {
					t.Errorf("the call took %v, want %v", took, tt.took)
				}
			})
		})
	}
}
