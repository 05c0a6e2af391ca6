package channels

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest/socket"

	"github.com/gobwas/ws"
	"github.com/pusher/pusher-http-go/v5"
)

const timeout = 10 * time.Second // for expected messages; a test that passes never waits that long

var app = struct{ ID, Key, Secret string }{"1", "local", "a-secret"}

// start starts a server and returns it with a pusher-http-go client for its HTTP API.
func start(t testing.TB) (*httptest.Server, *pusher.Client) {
	t.Helper()
	embedded := New(app.ID, app.Key, app.Secret, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(embedded)
	t.Cleanup(func() {
		server.Close()
		stuck := time.AfterFunc(timeout, func() { panic("Close does not return") }) // fail before go test's time limit
		embedded.Close()
		stuck.Stop()
	})
	return server, &pusher.Client{
		AppID: app.ID, Key: app.Key, Secret: app.Secret,
		Host:       strings.TrimPrefix(server.URL, "http://"),
		HTTPClient: server.Client(),
	}
}

const path = "/app/local?protocol=7&client=js&version=8.6.0&flash=false"

// connect connects and subscribes to channels.
func connect(t testing.TB, server *httptest.Server, channels ...string) *socket.Client {
	t.Helper()
	return socket.Subscribe(t, server.URL, app.Key, channels...)
}

func TestTriggerReachesSubscribers(t *testing.T) {
	server, client := start(t)
	one, both := connect(t, server, "one"), connect(t, server, "one", "two")
	other := connect(t, server, "three")
	const data = `{"message":"((((((((((っ･ωΣ[柱]ｶﾞｺｯ! <&\"\u2028"}`
	err := client.Trigger("one", "hit", data)
	one.WantEvent("one", "hit", data)
	both.WantEvent("one", "hit", data)

	err = errors.Join(err, client.TriggerMulti([]string{"one", "two"}, "hit", "x"))
	one.WantEvent("one", "hit", "x")
	both.WantEvent("one", "hit", "x")
	both.WantEvent("two", "hit", "x")

	_, batch := client.TriggerBatch([]pusher.Event{
		{Channel: "one", Name: "hit", Data: "1"}, {Channel: "one", Name: "hit", Data: "2"},
	})
	one.WantEvent("one", "hit", "1")
	one.WantEvent("one", "hit", "2")

	_, excluding := client.TriggerWithParams("one", "hit", "x", pusher.TriggerParams{SocketID: &one.ID})
	one.WantNoMessage()
	other.WantNoMessage()
	if err := errors.Join(err, batch, excluding); err != nil {
		t.Error(err)
	}
}

func TestUnsubscribe(t *testing.T) {
	server, client := start(t)
	other, s := connect(t, server, "one"), connect(t, server, "one", "two")
	s.Send(`{"event":"pusher:unsubscribe","data":{"channel":"another"}}`)
	s.Send(`{"event":"pusher:unsubscribe","data":{"channel":"one"}}`)
	s.WantNoMessage() // also waits until the server has handled the message
	if err := client.TriggerMulti([]string{"one", "two"}, "hit", "x"); err != nil {
		t.Fatal(err)
	}
	s.WantEvent("two", "hit", "x")
	other.WantEvent("one", "hit", "x")
}

func TestMessages(t *testing.T) {
	server, _ := start(t)
	long := strings.Repeat("x", 165)
	tests := []struct {
		name string
		send string
		want string // event in the response
		text string // text in the data of the response
	}{
		{"ping", `{"event":"pusher:ping","data":{}}`, "pusher:pong", "{}"},
		{"data encoded twice", `{"event":"pusher:subscribe","data":"{\"channel\":\"a\"}"}`, "pusher_internal:subscription_succeeded", "{}"},
		{"longest name", `{"event":"pusher:subscribe","data":{"channel":"` + long[1:] + `"}}`, "pusher_internal:subscription_succeeded", "{}"},
		{"name too long", `{"event":"pusher:subscribe","data":{"channel":"` + long + `"}}`, "pusher:error", "Invalid channel name"},
		{"subscribed twice", `{"event":"pusher:subscribe","data":{"channel":"here"}}`, "pusher:error", "Existing subscription to channel here"},
		{"private", `{"event":"pusher:subscribe","data":{"channel":"private-a"}}`, "pusher:error", `"code":4009`},
		{"presence", `{"event":"pusher:subscribe","data":{"channel":"presence-a"}}`, "pusher:error", `"code":4009`},
		{"unknown", `{"event":"hello","data":{}}`, "pusher:error", "Unsupported event"},
		{"an array", `[]`, "pusher:error", "JSON object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := connect(t, server, "here")
			s.Send(tt.send)
			m := s.Next()
			if m.Event != tt.want || !strings.Contains(string(m.Data), tt.text) {
				t.Errorf("got %s %s; want %s with %q", m.Event, m.Data, tt.want, tt.text)
			}
			s.WantNoMessage() // checks that the connection is still open
		})
	}
}

func TestSubscriptionsPerConnection(t *testing.T) {
	server, _ := start(t)
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("c", i))
	}
	s := connect(t, server, names...)
	s.Send(`{"event":"pusher:subscribe","data":{"channel":"more"}}`)
	if m := s.Next(); m.Event != "pusher:error" || !strings.Contains(string(m.Data), "100 channels") {
		t.Errorf("the 101st subscription: received %s %s, want pusher:error", m.Event, m.Data)
	}
}

func TestRefusedConnections(t *testing.T) {
	server, _ := start(t)
	tests := []struct {
		name, path, origin string
		code               int // 0 if the connection is accepted
		text               string
	}{
		{"protocol 5", "/app/local?protocol=5", server.URL, 0, ""},
		{"unknown key", "/app/other?protocol=7", "", 4001, "Did you forget to specify the cluster?"},
		{"unreadable protocol", "/app/local?protocol=seven", "", 4006, "protocol=7"},
		{"old protocol", "/app/local?protocol=4", "", 4007, "versions 5, 6 and 7"},
		{"new protocol", "/app/local?protocol=8", "", 4007, "versions 5, 6 and 7"},
		{"no protocol", "/app/local", "", 4008, "protocol=7"},
		{"another site", path, "https://evil.example", 4009, "origin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := socket.DialFrom(t, server.URL, tt.path, tt.origin)
			m := s.Next()
			if tt.code == 0 {
				if m.Event != "pusher:connection_established" {
					t.Errorf("received %s %s", m.Event, m.Data)
				}
				return
			}
			got := string(m.Data)
			if !strings.Contains(got, fmt.Sprintf(`"code":%d`, tt.code)) || !strings.Contains(got, tt.text) {
				t.Errorf("received %s %s, want code %d with %q", m.Event, got, tt.code, tt.text)
			}
			if code := s.CloseCode(); code != tt.code {
				t.Errorf("closed with %d, want %d", code, tt.code)
			}
		})
	}
}

// The server logs why it closes a connection: at level debug, because clients can repeat it.
func TestClosesAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := New(app.ID, app.Key, app.Secret, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	server := httptest.NewServer(s)
	defer server.Close()
	socket.DialFrom(t, server.URL, path, "https://evil.example").CloseCode()
	s.Close()
	if !regexp.MustCompile(`(?m) level=DEBUG .* code=4009 reason=".*https://evil.example`).MatchString(log.String()) {
		t.Errorf("the log has no reason:\n%s", &log)
	}
}

func TestAllowedOrigins(t *testing.T) {
	tests := []struct {
		origin, host, peer string
		want               bool
	}{
		{"", "app.example", "192.0.2.1:5", true}, // programs send no Origin
		{"https://app.example", "app.example", "192.0.2.1:5", true},
		{"https://app.example", "app.example:5000", "192.0.2.1:5", false},
		{"http://App.example", "app.example", "192.0.2.1:5", true},
		{"http://127.0.0.1:5001", "127.0.0.1:5000", "127.0.0.1:5", true},
		{"http://localhost:5001", "127.0.0.1:5000", "127.0.0.1:5", true},
		{"http://[::1]:5001", "localhost:5000", "[::1]:5", true},
		{"http://127.0.0.1:5001", "127.0.0.1:5000", "192.0.2.1:5", false},
		{"http://127.0.0.1:5001", "app.example", "127.0.0.1:5", true}, // a tunnel may rewrite Origin
		{"http://app.localhost:5001", "127.0.0.1:5000", "127.0.0.1:5", true},
		{"http://127.0.0.1.evil.example", "127.0.0.1:5000", "127.0.0.1:5", false},
		{"null", "127.0.0.1:5000", "127.0.0.1:5", false},
		{"http://%zz", "127.0.0.1:5000", "127.0.0.1:5", false},
	}
	for _, tt := range tests {
		r := &http.Request{Host: tt.host, RemoteAddr: tt.peer, Header: http.Header{}}
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if got := allowedOrigin(r); got != tt.want {
			t.Errorf("origin %q, host %s, peer %s: %v, want %v", tt.origin, tt.host, tt.peer, got, tt.want)
		}
	}
}

func TestHandshake(t *testing.T) {
	server, _ := start(t)
	for _, tt := range []struct {
		old, new string // replaced in a valid handshake
		want     int
	}{
		{"Connection: Upgrade", "Connection: keep-alive, Upgrade", 101}, // from Firefox
		{"Upgrade: websocket\r\n", "", 426},
		{"HTTP/1.1", "HTTP/1.0", 426},                     // from nginx, by default
		{"Connection: Upgrade", "Connection: close", 426}, // from nginx, by default
	} {
		conn := dialTCP(t, server)
		io.WriteString(conn, strings.Replace(handshakeOf(path), tt.old, tt.new, 1))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != tt.want {
			t.Errorf("%q instead of %q: %v %v, want status %d", tt.new, tt.old, resp, err, tt.want)
		}
	}
}

func TestFramesWithHandshake(t *testing.T) {
	server, _ := start(t)
	const subscribe = "\x81\xb3\x00\x00\x00\x00" + `{"event":"pusher:subscribe","data":{"channel":"a"}}`
	newRawClient(t, dialTCP(t, server), path, subscribe).established().wantMessage("subscription_succeeded")
}

// call is a call to the HTTP API. Each test changes one thing in a valid call.
type call struct {
	path, secret string
	query        url.Values
	body         string
	after        func(*call) // changes the call after it has been signed
}

func (c *call) do(t *testing.T, server *httptest.Server) (status int, body string) {
	t.Helper()
	c.query.Set("body_md5", fmt.Sprintf("%x", md5.Sum([]byte(c.body))))
	var parameters []string
	for _, name := range slices.Sorted(maps.Keys(c.query)) {
		parameters = append(parameters, name+"="+c.query.Get(name))
	}
	mac := hmac.New(sha256.New, []byte(c.secret))
	io.WriteString(mac, "POST\n"+c.path+"\n"+strings.Join(parameters, "&"))
	c.query.Set("auth_signature", fmt.Sprintf("%x", mac.Sum(nil)))
	if c.after != nil {
		c.after(c)
	}
	resp, err := server.Client().Post(server.URL+c.path+"?"+c.query.Encode(), "", strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func TestHTTPAPI(t *testing.T) {
	server, _ := start(t)
	in := func(d time.Duration) string { return fmt.Sprint(time.Now().Add(d).Unix()) }
	body := func(name, channels, data string) string {
		return fmt.Sprintf(`{"name":%q,"channels":%s,"data":%q}`, name, channels, data)
	}
	repeat := func(s string, n int) string { return "[" + strings.Repeat(s+",", n-1) + s + "]" }
	one := `{"name":"e","channel":"a","data":"x"}`
	tests := []struct {
		name   string
		change func(*call)
		status int
		text   string
	}{
		{"nearly too old", func(c *call) { c.query.Set("auth_timestamp", in(-590*time.Second)) }, 200, "{}"},
		{"too old", func(c *call) { c.query.Set("auth_timestamp", in(-610*time.Second)) }, 401, "Timestamp expired: Given timestamp (2"},
		{"too new", func(c *call) { c.query.Set("auth_timestamp", in(610*time.Second)) }, 401, "not within 600s of server time (2"},
		{"wrong secret", func(c *call) { c.secret = "another" }, 401, "Invalid signature"},
		{"wrong key", func(c *call) { c.query.Set("auth_key", "another") }, 400, "Unknown auth_key"},
		{"wrong app", func(c *call) { c.path = "/apps/2/events" }, 404, "Unknown app"},
		{"parameters whose order changes with =", func(c *call) { c.query.Set("a", "1"); c.query.Set("a!", "1") }, 200, "{}"},
		{"changed body", func(c *call) { c.after = func(c *call) { c.body = body("f", `["a"]`, "x") } }, 401, "Invalid body_md5"},
		{"added parameter", func(c *call) { c.after = func(c *call) { c.query.Set("info", "x") } }, 401, "Invalid signature"},
		{"not JSON", func(c *call) { c.body = "hello" }, 400, "not valid JSON for an event"},
		{"no data", func(c *call) { c.body = `{"name":"e","channels":["a"]}` }, 400, "no data"},
		{"no name", func(c *call) { c.body = body("", `["a"]`, "x") }, 400, "name must have 1 to 200 characters"},
		{"longest name", func(c *call) { c.body = body(strings.Repeat("柱", 200), `["a"]`, "x") }, 200, "{}"},
		{"name too long", func(c *call) { c.body = body(strings.Repeat("柱", 201), `["a"]`, "x") }, 400, "200 characters"},
		{"bad channel", func(c *call) { c.body = body("e", `["a","a b"]`, "x") }, 400, "Invalid channel name"},
		{"101 channels", func(c *call) { c.body = body("e", repeat(`"a"`, 101), "x") }, 400, "1 to 100 channels, not 101"},
		{"largest data", func(c *call) { c.body = body("e", `["a"]`, strings.Repeat("x", 10<<10)) }, 200, "{}"},
		{"data too large", func(c *call) { c.body = body("e", `["a"]`, strings.Repeat("x", 10<<10+1)) }, 413, "10240 bytes"},
		{"huge body", func(c *call) { c.body = strings.Repeat("x", 1<<20+1) }, 413, "The body is over"},
		{"batch", func(c *call) { c.path, c.body = "/apps/1/batch_events", `{"batch":`+repeat(one, 10)+`}` }, 200, "{}"},
		{"batch with an invalid event", func(c *call) { c.path, c.body = "/apps/1/batch_events", `{"batch":[`+one+`,{}]}` }, 400, "name must have"},
		{"batch of 11", func(c *call) { c.path, c.body = "/apps/1/batch_events", `{"batch":`+repeat(one, 11)+`}` }, 400, "1 to 10 events, not 11"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := connect(t, server, "a")
			c := &call{
				path: "/apps/1/events", secret: app.Secret, body: body("e", `["a"]`, "x"),
				query: url.Values{"auth_key": {app.Key}, "auth_timestamp": {in(0)}, "auth_version": {"1.0"}},
			}
			tt.change(c)
			status, text := c.do(t, server)
			if status != tt.status || !strings.Contains(text, tt.text) {
				t.Errorf("got %d %s; want %d with %q", status, text, tt.status, tt.text)
			}
			if strings.Contains(text, app.Secret) {
				t.Errorf("the secret is shown: %s", text)
			}
			if status == 200 {
				s.Next() // receives the event
			} else {
				s.WantNoMessage()
			}
		})
	}
}

// A malformed message closes only the connection that it came from, with one close frame.
func TestMalformedMessages(t *testing.T) {
	many := strings.Repeat
	tests := []struct {
		name string
		send string
		code ws.StatusCode // in the server's close frame; 0 if the client ends the connection
	}{
		{"binary", "\x82\x81\x00\x00\x00\x00x", 1003},
		{"reserved bits", "\xf1\x81\x00\x00\x00\x00x", 1002},
		{"not UTF-8", "\x81\x81\x00\x00\x00\x00\xff", 1007},
		{"over 8 KB", "\x81\xfe\x20\x01\x00\x00\x00\x00" + many("x", 8193), 1009},
		{"a length of 2⁶³ bytes or more", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1009},
		{"fragments over 8 KB", "\x01\x80\x00\x00\x00\x00" + many("\x00\xfe\x10\x00\x00\x00\x00\x00"+many("x", 0x1000), 3), 1009},
		{"continuation without a first fragment", "\x80\x80\x00\x00\x00\x00", 1002},
		{"long ping", "\x89\xfe\x00\x7e\x00\x00\x00\x00" + many("x", 126), 1002},
		{"close", "\x88\x82\x00\x00\x00\x00\x03\xe8", 1000},
		{"close with a code that clients may not send", "\x88\x82\x00\x00\x00\x00\x03\xed", 1002},
		{"a message after a close", "\x88\x82\x00\x00\x00\x00\x03\xe8\x81\x82\x00\x00\x00\x00{}", 1000},
		{"too many pongs", many("\x8a\x80\x00\x00\x00\x00", 8000), 4100},
		{"too many empty fragments", "\x01\x80\x00\x00\x00\x00" + many("\x00\x80\x00\x00\x00\x00", 12_000), 4100},
		{"disconnect within a message", "\x81\xfe\x10\x00\x00", 0},
	}
	server, client := start(t)
	witness := connect(t, server, "a")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dialRaw(t, server)
			if _, err := io.WriteString(c.conn, tt.send); err != nil {
				t.Fatal(err)
			}
			if tt.code == 0 {
				c.conn.Close()
			} else {
				c.wantClosed(tt.code)
			}
			if err := client.Trigger("a", "hit", "x"); err != nil {
				t.Fatal(err)
			}
			witness.WantEvent("a", "hit", "x")
		})
	}
}

// All events of a sender arrive, in the order in which they were sent, even if several senders send at the same time.
func TestOrder(t *testing.T) {
	server, client := start(t)
	const senders, events = 8, 50
	subscriber := connect(t, server, "a")
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for i := range events {
				if err := client.Trigger("a", fmt.Sprint(s), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	next := map[string]int{}
	for range senders * events {
		m := subscriber.Next()
		if m.Text() != fmt.Sprint(next[m.Event]) {
			t.Fatalf("sender %s: received event %s, want %d", m.Event, m.Text(), next[m.Event])
		}
		next[m.Event]++
	}
	sending.Wait()
}

func TestClose(t *testing.T) {
	server, client := start(t)
	s, raw := connect(t, server, "a"), dialRaw(t, server)
	if err := client.Trigger("a", "last", "x"); err != nil {
		t.Fatal(err)
	}
	var closing sync.WaitGroup
	closing.Go(server.Config.Handler.(*Server).Close)
	s.WantEvent("a", "last", "x")
	raw.wantClosed(codeReconnect)
	if code := s.CloseCode(); code != 4200 {
		t.Errorf("closed with %d, want 4200", code)
	}
	closing.Wait()
	if head, payload := newRawClient(t, dialTCP(t, server), path).frame(); head != 0 {
		t.Errorf("a new connection received %x %s", head, payload)
	}
}

// A client that connects during Close does not receive a close frame with 4200 alone, after which pusher-js would retry
// without a pause.
func TestCloseWhileClientsConnect(t *testing.T) {
	for range 20 {
		server, _ := start(t)
		var clients sync.WaitGroup
		connected := make(chan bool, 20)
		for range cap(connected) {
			clients.Go(func() {
				c := newRawClient(t, dialTCP(t, server), path)
				defer c.conn.Close()
				connected <- true
				if head, payload := c.frame(); head == closeHead {
					t.Errorf("the first frame is %x %q", head, payload)
				}
			})
		}
		<-connected
		server.Config.Handler.(*Server).Close()
		clients.Wait()
	}
}
