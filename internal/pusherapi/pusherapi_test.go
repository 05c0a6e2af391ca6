// Tests the explanation of each failed call, and whether its event arrived. The calls go through pusher-http-go to real
// servers on loopback or, if time matters, to servers in a synctest bubble, where bytes take time to arrive.
package pusherapi

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/pipe"

	"github.com/pusher/pusher-http-go/v5"
)

const secret = "hush-hush"

// newClient returns a client for the Channels server at url.
func newClient(url string, c *http.Client) *pusher.Client {
	scheme, host, _ := strings.Cut(url, "://")
	return &pusher.Client{AppID: "1", Key: "k", Secret: secret, Host: host, Secure: scheme == "https", HTTPClient: c}
}

// trigger triggers an event.
func trigger(url string, client *http.Client) error {
	return newClient(url, client).Trigger("c", "e", "d")
}

// network returns the part of a client of NewClient that tests change.
func network(client *http.Client) *http.Transport {
	return client.Transport.(transport).next.(*http.Transport)
}

// dialing returns a client that connects with dial.
func dialing(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	client := NewClient()
	network(client).DialContext = dial
	return client
}

var _, _ = http.ProxyFromEnvironment(&http.Request{URL: new(url.URL)}) // reads the environment before tests change it

// proxied returns a client that uses a proxy.
func proxied(address string) *http.Client {
	client := NewClient()
	network(client).Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(address) }
	return client
}

// click triggers an event, which must succeed.
func click(t *testing.T, client *pusher.Client) {
	t.Helper()
	if err := client.Trigger("c", "e", "d"); err != nil {
		t.Error(err)
	}
}

// wantExplained checks that err is not nil, and that Explain explains it with this status and with sentences that
// contain text, but no credentials or addresses.
func wantExplained(t *testing.T, err error, status int, text string) {
	t.Helper()
	if err == nil {
		t.Fatal("the call succeeded")
	}
	gotStatus, got, _ := Explain(err, "the server")
	if gotStatus != status || !strings.Contains(got, text) {
		t.Errorf("explained as %d %q; want %d with %q", gotStatus, got, status, text)
	}
	if leak := regexp.MustCompile(secret + `|auth_signature|://|127\.|not a valid URL|[<{\n]`).FindString(got); leak != "" {
		t.Errorf("%q is in %q", leak, got)
	}
	if len(got) > 400 || !strings.HasSuffix(got, ".") || got[:1] != strings.ToUpper(got[:1]) {
		t.Errorf("not a few short sentences: %q", got)
	}
}

// Explain explains an error response by its status and by known phrases in its body. The call is never retried.
func TestErrorStatus(t *testing.T) {
	for _, tt := range []struct {
		status     int
		body, want string
	}{
		{400, "Unknown auth_key", "does not know this app"},
		{404, "Unknown app: this server has no app with the ID 1", "does not know this app"},    // pusher-sample
		{404, "No matching application for ID [1].", "does not know this app"},                  // Reverb
		{404, `{"error":"The app 1 could not be found.","code":404}`, "does not know this app"}, // soketi
		{401, "Invalid signature: you should send HmacSHA256Hex(\"auth_key=k\n\", …)", "the secret is wrong"},
		{401, `{"error":"The secret authentication failed","code":401}`, "the secret is wrong"}, // soketi
		{401, "<html>Basic realm</html>", "responded with status 401 and did not accept"},
		{422, `{"message":"The channel field must be a string."}`, "1 to 164 characters (A-Z"}, // Reverb
		{403, "<html>Access denied</html>", "responded with status 403 and did not accept"},
		{404, "<html>The application could not find the page</html>", "responded with status 404 and did not accept"},
		{403, "API call failed since (daily) message quota exceeded", "wait until it is renewed"},
		{413, "The data content of this event exceeds the allowed maximum.", "Send at most 10 KB of data"},
		{429, "", "Wait a moment"},
		{500, "<script>alert(1)</script>", "reported a server error (status 500), so it is not known whether"},
		{302, "", "responded with status 302 and did not accept the event"}, // with a Location, which is not followed
		{400, "Invalid channel name", "1 to 164 characters (A-Z"},
		{400, "<title>400 The plain HTTP request was sent to HTTPS port</title>", "requires TLS"}, // nginx
		{400, "Client sent an HTTP request to an HTTPS server.", "requires TLS"},                  // Go
		{200, "{" + strings.Repeat(" ", maxResponse) + "}", "not come from the HTTP API"},
	} {
		requests := 0
		wantExplained(t, trigger("http://x", InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests++
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(tt.status)
			io.WriteString(w, tt.body)
		}))), 502, tt.want)
		if requests != 1 {
			t.Errorf("the server received %d requests with response %d %.40s, want 1", requests, tt.status, tt.body)
		}
	}
}

// The explanation of a wrong clock shows this machine's time and, if it is known, the server's.
func TestClock(t *testing.T) {
	const here = "shows Sat, 01 Jan 2000 00:00:00 GMT; it must be within 10 minutes of the clock of the server"
	for date, there := range map[string]string{
		"Mon, 02 Jan 2006 15:04:05 GMT": ", which shows Mon, 02 Jan 2006 15:04:05 GMT. Set",
		"<b>now</b>":                    ". Set",
	} {
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", date)
			http.Error(w, "Timestamp expired: Given timestamp not within 600s", http.StatusUnauthorized)
		})
		synctest.Test(t, func(t *testing.T) {
			wantExplained(t, trigger("http://x", InProcess(handler)), 502, here+there)
		})
	}
}

// Explain also explains why pusher-http-go refuses to send an event; for unknown causes, it quotes pusher-http-go.
func TestRefusedByClient(t *testing.T) {
	client := newClient("http://x", InProcess(http.NotFoundHandler()))
	for want, err := range map[string]error{
		"The channel name is not valid":        client.Trigger("ä", "e", "d"),
		"Send at most 10 KB of data":           client.Trigger("c", "e", strings.Repeat("x", 10<<10+1)),
		"not sent: No master encryption key s": client.Trigger("private-encrypted-c", "e", "d"),
	} {
		wantExplained(t, err, 500, want)
	}
}

// If a call gets no connection, the explanation names the cause, and says that the event was not sent.
func TestNoConnection(t *testing.T) {
	const unreachable, tooMany = "can't be reached from this machine's network", "too many files and connections open"
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := pushertest.NewTLSServer(t, http.NotFoundHandler())
	closed := httptest.NewServer(nil)
	closed.Close()
	failing := func(err error) *http.Client {
		return dialing(func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		})
	}
	checking := func(now time.Time, host string) *http.Client {
		client := NewClient()
		config := network(client).TLSClientConfig
		config.RootCAs, config.ServerName, config.Time = x509.NewCertPool(), host, func() time.Time { return now }
		return client
	}
	for _, tt := range []struct {
		name, url string
		client    *http.Client
		want      string
	}{
		{"refused", closed.URL, NewClient(), "refused the connection"},
		{"refused on Windows", "http://x", failing(syscall.Errno(10061)), "refused the connection"},
		{"unknown host", "http://x", failing(&net.DNSError{Err: "no such host", Name: "x"}), "could not be resolved"},
		{"network unreachable", "http://x", failing(syscall.ENETUNREACH), unreachable},
		{"network unreachable on Windows", "http://x", failing(syscall.Errno(10051)), unreachable},
		{"host unreachable", "http://x", failing(syscall.EHOSTUNREACH), unreachable},
		{"host unreachable on Windows", "http://x", failing(syscall.Errno(10065)), unreachable},
		{"no descriptor", "http://x", failing(syscall.EMFILE), tooMany},
		{"no descriptor for DNS", "http://x", failing(&net.DNSError{Err: "too many open files"}), tooMany},
		{"proxy that is down", "https://x", proxied(closed.URL), "could be established"},
		{"another error", "http://x", failing(io.EOF), "could not be established"},
		{"no TLS", "https" + strings.TrimPrefix(plain.URL, "http"), NewClient(), "does not use TLS on that port"},
		{"unknown authority", secure.URL, NewClient(), "signed by an unknown authority"},
		{"expired certificate", secure.URL, checking(time.Now().AddDate(200, 0, 0), ""), "expired or is not valid yet"},
		{"certificate of another host", secure.URL, checking(time.Now(), "elsewhere.test"), "not valid for this host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantExplained(t, trigger(tt.url, tt.client), 502, tt.want+", so the event was not sent")
		})
	}
}

// Calls over HTTPS work, directly and through a CONNECT proxy. They use HTTP/1.1 even if the server supports HTTP/2.
func TestHTTPS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("the server received a call over %s", r.Proto)
		}
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), "fail") {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, "{}")
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		far, _ := net.Dial("tcp", r.Host)
		near, _, _ := http.NewResponseController(w).Hijack()
		io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		go forward(far, near)
		forward(near, far)
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", "http://proxy.example:port") // not worth a word if there is a response
	for _, client := range []*http.Client{NewClient(), proxied(proxy.URL)} {
		// Only this part changes: another TLS configuration would hide which protocols the program offers.
		network(client).TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		click(t, newClient(server.URL, client))
		wantExplained(t, newClient(server.URL, client).Trigger("c", "fail", "d"), 502, "The server reported a")
	}
}

// If a proxy refuses a call, the explanation has the status and the environment variable that net/http reads: the
// lowercase variable counts if the uppercase variable is empty.
func TestProxyRefuses(t *testing.T) {
	for _, tt := range []struct {
		url, variable string
		status        int
		want          string
	}{
		{"https://x", "HTTPS_PROXY", 407, "The proxy in HTTPS_PROXY requires a user name and a password (status 407)"},
		{"https://x", "https_proxy", 403, "The proxy in https_proxy did not connect to the server (status 403), so"},
		{"http://x", "HTTP_PROXY", 407, "The proxy in HTTP_PROXY requires a user name and a password (status 407)"},
		{"http://x", "HTTP_PROXY", 403, " or the proxy in HTTP_PROXY responded with status 403, so it is not known"},
	} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "<b>not through this proxy</b>", tt.status)
		}))
		defer proxy.Close()
		t.Setenv("HTTPS_PROXY", "")
		t.Setenv(tt.variable, "http://proxy.example")
		wantExplained(t, trigger(tt.url, proxied(proxy.URL)), 502, tt.want)
	}
}

// If a call gets no connection, and the proxy in the environment is not a valid URL, the explanation says so first.
func TestProxyIsNotURL(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	const warning = "The environment variable HTTP_PROXY is not a valid URL: correct it, or use HOST:PORT. "
	for value, want := range map[string]string{
		"http://user:50%off@proxy.example:8080": warning,
		"http://proxy.example:port":             warning,
		"10.0.0.1:8080":                         "",
	} {
		t.Setenv("HTTP_PROXY", value)
		_, text, _ := Explain(trigger(closed.URL, NewClient()), "Pusher")
		if !strings.HasPrefix(text, want+"Pusher refused the connection") {
			t.Errorf("HTTP_PROXY=%s: %s", value, text)
		}
	}
}

// The error for the log has the status and the response, but no URL, key or signature. A response that quotes the
// request is not taken for one that blames the key or the signature.
func TestCause(t *testing.T) {
	_, text, err := Explain(trigger("http://x", InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		http.Error(w, fmt.Sprintf(`no {"auth_key": "my-own-key"} 278d425bdf160c739803 %s?%s %s %s`, r.URL.Path,
			r.URL.RawQuery, r.URL.Query().Get("auth_signature"), body), http.StatusUnauthorized)
	}))), "the server")
	cause := err.Error()
	if !strings.Contains(text, "responded with status 401 and did not accept") {
		t.Errorf("explained as %q", text)
	}
	if !strings.HasPrefix(cause, `status 401: "no {`) || !strings.Contains(cause, `\"data\"`) {
		t.Errorf("the status or a part of the response is not in %q", cause)
	}
	if leak := regexp.MustCompile(`my-own|auth_|body_md5|[0-9a-f]{20}|://|` + secret).FindString(cause); leak != "" {
		t.Errorf("%q is in %q", leak, cause)
	}
}

// A call times out, and closes its connection, wherever it gets stuck.
func TestTimeouts(t *testing.T) {
	const notSent = "could not be reached in time, so the event was not sent"
	const notKnown = "did not respond in time, so it is not known whether the event was sent"
	resolver := net.DefaultResolver
	defer func() { net.DefaultResolver = resolver }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	net.DefaultResolver.LookupHost(canceled, "a.invalid") // reads the configuration outside of the bubble
	silentTLS := func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go io.Copy(io.Discard, server) // until the client closes the connection
		return client, nil
	}
	hanging := func(flush bool) func(t *testing.T) error {
		return func(t *testing.T) error {
			client, _ := serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
				if accept(w, r); flush {
					http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			})
			return client.Trigger("c", "e", "d")
		}
	}
	for _, tt := range []struct {
		name string
		call func(t *testing.T) error
		took time.Duration
		want string
	}{
		{"DNS", func(*testing.T) error { return trigger("http://a.invalid", NewClient()) }, 3 * time.Second, notSent},
		{"TLS", func(*testing.T) error { return trigger("https://x", dialing(silentTLS)) }, 2 * time.Second, notSent},
		{"no response", hanging(false), 5 * time.Second, notKnown},
		{"no end of the response", hanging(true), 5 * time.Second, notKnown},
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

const latency = 20 * time.Millisecond // one way

// serve runs a server in memory, which closes idle connections after idle, and returns a client for it. Bytes arrive
// after latency, and so does the end of a connection. opened is the number of connections so far.
func serve(t *testing.T, idle time.Duration, handler http.HandlerFunc) (client *pusher.Client, opened *atomic.Int32) {
	opened = new(atomic.Int32)
	var links sync.WaitGroup
	t.Cleanup(links.Wait)
	server, listener := &http.Server{IdleTimeout: idle, Handler: handler}, make(pipe.Listener)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return newClient("http://x", dialing(func(context.Context, string, string) (net.Conn, error) {
		opened.Add(1)
		client, near := net.Pipe()
		far := listener.Dial()
		links.Go(func() { forward(near, far) })
		links.Go(func() { forward(far, near) })
		return client, nil
	})), opened
}

// forward forwards bytes, and the end of the stream, from src to dst after latency.
func forward(src, dst net.Conn) {
	defer dst.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
		time.Sleep(latency)
		if err == nil {
			_, err = dst.Write(buffer[:n])
		}
		if err != nil {
			return
		}
	}
}

// accept accepts an event.
func accept(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "{}")
}

// A click never uses a connection that the server is closing, if the server keeps idle connections for a minute or
// longer, as nginx and load balancers do.
func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := serve(t, time.Minute, accept)
		click(t, client)
		time.Sleep(time.Minute - latency/2)
		click(t, client)
	})
}

// If a connection breaks after a request was sent, the error says that it is not known whether the event was sent. The
// request is not retried.
func TestConnectionBreaks(t *testing.T) {
	const lost = "was lost, so it is not known whether the event was sent"
	for _, tt := range []struct {
		name     string
		earlier  int32         // number of earlier requests over the same connection
		wait     time.Duration // before the request
		response string
		requests int32 // that the server receives
		want     string
	}{
		{"without a response, on a new connection", 0, 0, "", 1, lost},
		{"within the response, on an idle connection", 1, 0, "HTTP/1.1 200 OK\r\nContent-Le", 2, lost},
		{"within the body, on an idle connection", 1, 0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", 2, lost},
		{"while the request is in transit", 1, time.Second - latency/2, "", 1, lost},
		{"after a response in another protocol", 0, 0, "SSH-2.0-x\r\n", 1, "not come from the HTTP API"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests atomic.Int32
				client, _ := serve(t, time.Second, func(w http.ResponseWriter, r *http.Request) {
					if requests.Add(1) <= tt.earlier {
						accept(w, r)
						return
					}
					conn, _, _ := http.NewResponseController(w).Hijack()
					io.WriteString(conn, tt.response)
					conn.Close()
				})
				for range tt.earlier {
					click(t, client)
				}
				time.Sleep(tt.wait)
				wantExplained(t, client.Trigger("c", "e", "d"), 502, tt.want)
				if n := requests.Load(); n != tt.requests {
					t.Errorf("%d requests, want %d", n, tt.requests)
				}
			})
		})
	}
}

// After a call that timed out, the next one opens a connection, because all idle ones may be dead as well.
func TestDeadConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections = 4
		var requests atomic.Int32
		client, opened := serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
			if accept(w, r); requests.Add(1) == connections+1 {
				<-r.Context().Done()
			}
		})
		var calls sync.WaitGroup
		for range connections {
			calls.Go(func() { click(t, client) })
		}
		calls.Wait()
		wantExplained(t, client.Trigger("c", "e", "d"), 504, "did not respond in time")
		click(t, client)
		if n := opened.Load(); n != connections+1 {
			t.Errorf("%d connections were opened, want %d", n, connections+1)
		}
	})
}
