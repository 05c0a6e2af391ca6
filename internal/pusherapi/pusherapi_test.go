package pusherapi_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pusherapi"

	"github.com/pusher/pusher-http-go/v5"
)

const secret = "hush-hush"

func client(url string, transport http.RoundTripper) *pusher.Client {
	return &pusher.Client{
		AppID: "1", Key: "k", Secret: secret,
		Host: url[strings.Index(url, "//")+2:], Secure: strings.HasPrefix(url, "https"),
		HTTPClient: &http.Client{Transport: pusherapi.Transport(transport)},
	}
}

func wantExplained(t *testing.T, err error, status int, text string) {
	t.Helper()
	if err == nil {
		t.Fatal("the call succeeded")
	}
	gotStatus, got := pusherapi.Explain(err, "Pusher")
	if gotStatus != status || !strings.Contains(got, text) {
		t.Errorf("explained as %d %q; want %d with %q", gotStatus, got, status, text)
	}
	for _, leak := range []string{secret, "auth_signature", "://", "<", "\n"} {
		if strings.Contains(got, leak) {
			t.Errorf("%q is in %q", leak, got)
		}
	}
	if len(got) > 400 || strings.TrimRight(got, ".;") == got {
		t.Errorf("not a sentence or two: %q", got)
	}
}

// What a server answers, and what whoever runs the app is told.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"unknown key", 400, "Unknown auth_key", "the key, the app ID or the cluster is wrong"},
		{"unknown app, Reverb", 404, "No matching application for ID [1].", "does not know this app"},
		{"wrong secret", 401, `Invalid signature: you should have sent HmacSHA256Hex("POST\n/apps/1/events\nauth_key=k", your_secret_key), but you sent "x"`, "the secret is wrong"},
		{"wrong secret, soketi", 401, `{"error":"The secret authentication failed","code":401}`, "the secret is wrong"},
		{"clock behind", 401, "Timestamp expired: Given timestamp (2013-06-17T15:39:38Z) not within 600s of server time (2013-06-17T17:09:21Z)", "clock is 1 hour and 29 minutes behind"},
		{"clock ahead", 401, "Timestamp expired: Given timestamp (2013-06-19T17:09:21Z) not within 600s of server time (2013-06-17T17:09:21Z)", "clock is 2 days ahead of"},
		{"clock, no times", 401, "Timestamp expired", "clock is"},
		{"quota", 403, "API call failed since (daily) message quota exceeded", "message quota is used up"},
		{"disabled", 403, "App disabled", "this app is disabled"},
		{"forbidden", 403, "<b>no</b>", "not allowed to do this"},
		{"too large", 413, "The data content of this event exceeds the allowed maximum (10240 bytes).", "10 KB of data at most"},
		{"too many", 429, "", "too many events at once"},
		{"their trouble", 500, "<script>alert(1)</script>", "trouble of its own"},
		{"their trouble too", 503, "", "status 503"},
		{"redirect", 302, "", "address is wrong"},
		{"malformed", 400, "Expected name parameter to be a string\n", "status 400"},
		{"another server", 200, "<html>", "not the HTTP API"},
		{"endless", 200, strings.Repeat("x", 1<<20), "not the HTTP API"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			defer server.Close()
			wantExplained(t, client(server.URL, http.DefaultTransport).Trigger("c", "e", "d"), 502, tt.want)
			if asked != 1 {
				t.Errorf("the server was asked %d times", asked)
			}
		})
	}
}

// The Date header tells how far the clock is off where the body does not.
func TestClockByDate(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(3*time.Hour+30*time.Second).UTC().Format(http.TimeFormat))
		http.Error(w, "Timestamp expired", http.StatusUnauthorized)
	}))
	defer server.Close()
	wantExplained(t, client(server.URL, http.DefaultTransport).Trigger("c", "e", "d"), 502, "clock is 3 hours behind")
}

func TestFailures(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	secure.Config.ErrorLog = nil
	gone := httptest.NewServer(nil)
	gone.Close()
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }))
	defer cut.Close()
	broken := func(err error) http.RoundTripper {
		return roundTripper(func(*http.Request) (*http.Response, error) { return nil, &net.OpError{Op: "dial", Err: err} })
	}
	trusting := func(now time.Time, host string) http.RoundTripper {
		transport := secure.Client().Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Time = func() time.Time { return now }
		transport.TLSClientConfig.ServerName = host
		return transport
	}
	tests := []struct {
		name      string
		url       string
		transport http.RoundTripper
		want      string
	}{
		{"refused", gone.URL, http.DefaultTransport, "Nothing answers"},
		{"unknown host", "http://x", broken(&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}), "could not be looked up"},
		{"no network", "http://x", broken(syscall.ENETUNREACH), "can't be reached from this machine's network"},
		{"no way", "http://x", broken(syscall.EHOSTUNREACH), "can't be reached from this machine's network"},
		{"TLS to a plain port", strings.Replace(plain.URL, "http:", "https:", 1), http.DefaultTransport, "does not speak TLS"},
		{"plain to a TLS port", strings.Replace(secure.URL, "https:", "http:", 1), http.DefaultTransport, "Write https"},
		{"unknown authority", secure.URL, http.DefaultTransport, "signed by nobody"},
		{"certificate run out", secure.URL, trusting(time.Now().AddDate(200, 0, 0), ""), "Check this machine's clock first"},
		{"certificate of another host", secure.URL, trusting(time.Now(), "elsewhere.test"), "for another host name"},
		{"cut", cut.URL, http.DefaultTransport, "not known whether"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantExplained(t, client(tt.url, tt.transport).Trigger("c", "e", "d"), 502, tt.want)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// body is an answer's body that never ends.
type body struct{ ctx context.Context }

func (b body) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, b.ctx.Err() }
func (b body) Close() error             { return nil }

// spaces is a body that begins well and never ends.
type spaces struct{ read int }

func (s *spaces) Read(b []byte) (int, error) {
	n := copy(b, strings.Repeat(" ", len(b)))
	if s.read == 0 {
		n = copy(b, "{}")
	}
	s.read += n
	if s.read > 1<<20 {
		return n, io.ErrUnexpectedEOF // far too late
	}
	return n, nil
}
func (*spaces) Close() error { return nil }

func TestEndlessAnswer(t *testing.T) {
	answer := &spaces{}
	err := client("http://x", roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: answer}, nil
	})).Trigger("c", "e", "d")
	wantExplained(t, err, 502, "not the HTTP API")
	if answer.read > 128<<10 {
		t.Errorf("%d bytes were read", answer.read)
	}
}

// A call ends in time, whether nothing answers or the answer never ends.
func TestTimeout(t *testing.T) {
	for name, answer := range map[string]roundTripper{
		"no answer": func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
		"no end": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body{r.Context()}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := client("http://x", answer).Trigger("c", "e", "d")
				if took := time.Since(start); took != pusherapi.Timeout {
					t.Errorf("it took %v", took)
				}
				wantExplained(t, err, 504, "did not answer in time")
			})
		})
	}
}
