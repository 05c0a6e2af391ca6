package channels

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest/socket"

	"github.com/coder/websocket"
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
		embedded.Close()
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

	if err := client.Trigger("one", "hit", data); err != nil {
		t.Fatal(err)
	}
	one.WantEvent("one", "hit", data)
	both.WantEvent("one", "hit", data)

	if err := client.TriggerMulti([]string{"one", "two"}, "hit", "x"); err != nil {
		t.Fatal(err)
	}
	one.WantEvent("one", "hit", "x")
	both.WantEvent("one", "hit", "x")
	both.WantEvent("two", "hit", "x")

	var batch []pusher.Event
	for i := range 10 {
		batch = append(batch, pusher.Event{Channel: "one", Name: "hit", Data: fmt.Sprint(i)})
	}
	if _, err := client.TriggerBatch(batch); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		one.WantEvent("one", "hit", fmt.Sprint(i))
	}

	if _, err := client.TriggerWithParams("one", "hit", "not to one", pusher.TriggerParams{SocketID: &one.ID}); err != nil {
		t.Fatal(err)
	}
	one.WantNoMessage()
	other.WantNoMessage()
}

func TestUnsubscribe(t *testing.T) {
	server, client := start(t)
	s := connect(t, server, "one", "two")
	s.Send(`{"event":"pusher:unsubscribe","data":{"channel":"one"}}`)
	s.WantNoMessage() // also waits until the server has handled the message
	if err := client.TriggerMulti([]string{"one", "two"}, "hit", "x"); err != nil {
		t.Fatal(err)
	}
	s.WantEvent("two", "hit", "x")
	s.Send(`{"event":"pusher:subscribe","data":{"channel":"one"}}`)
	if m := s.Next(); m.Event != "pusher_internal:subscription_succeeded" {
		t.Fatalf("the response to a second subscription is %+v, want subscription_succeeded", m)
	}
}

// Subscribers connect and disconnect in any order; exactly those that are subscribed
// receive an event.
func TestSubscriberChurn(t *testing.T) {
	server, client := start(t)
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b"}
	subscribers := make([]*socket.Client, 6)
	subscribed := make([]map[string]bool, len(subscribers))
	for i := range subscribers {
		subscribers[i], subscribed[i] = connect(t, server), map[string]bool{}
	}
	for range 200 {
		i, name := random.IntN(len(subscribers)), names[random.IntN(len(names))]
		switch s := subscribers[i]; {
		case !subscribed[i][name]:
			s.Send(`{"event":"pusher:subscribe","data":{"channel":"` + name + `"}}`)
			s.Next()
			subscribed[i][name] = true
		case random.IntN(4) == 0: // the client disconnects
			s.Close(websocket.StatusNormalClosure, "")
			subscribers[i], subscribed[i] = connect(t, server), map[string]bool{}
		default:
			s.Send(`{"event":"pusher:unsubscribe","data":{"channel":"` + name + `"}}`)
			s.WantNoMessage() // also waits until the server has handled the message
			delete(subscribed[i], name)
		}
		if err := client.TriggerMulti(names, "hit", "x"); err != nil {
			t.Fatal(err)
		}
		for i, s := range subscribers {
			for _, name := range names {
				if subscribed[i][name] {
					s.WantEvent(name, "hit", "x")
				}
			}
			s.WantNoMessage()
		}
	}
}

func TestMessages(t *testing.T) {
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
		{"no name", `{"event":"pusher:subscribe","data":{}}`, "pusher:error", "Invalid channel name"},
		{"no data", `{"event":"pusher:subscribe"}`, "pusher:error", "Invalid channel name"},
		{"bad characters", `{"event":"pusher:subscribe","data":{"channel":"a b"}}`, "pusher:error", "Invalid channel name"},
		{"unsubscribe bad name", `{"event":"pusher:unsubscribe","data":{"channel":""}}`, "pusher:error", "Invalid channel name"},
		{"subscribed twice", `{"event":"pusher:subscribe","data":{"channel":"here"}}`, "pusher:error", "Existing subscription to channel here"},
		{"private", `{"event":"pusher:subscribe","data":{"channel":"private-a"}}`, "pusher:error", `"code":4009`},
		{"presence", `{"event":"pusher:subscribe","data":{"channel":"presence-a"}}`, "pusher:error", `"code":4009`},
		{"client event", `{"event":"client-x","channel":"here","data":{}}`, "pusher:error", "through the HTTP API"},
		{"unknown", `{"event":"hello","data":{}}`, "pusher:error", "Unsupported event"},
		{"no event", `{"data":{}}`, "pusher:error", "Unsupported event"},
		{"an array", `[]`, "pusher:error", "JSON object"},
		{"not JSON", `hello`, "pusher:error", "JSON object"},
		{"empty", ``, "pusher:error", "JSON object"},
		{"deeply nested", strings.Repeat("[", 8_000), "pusher:error", "JSON object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, _ := start(t)
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

func TestPingFrame(t *testing.T) {
	server, _ := start(t)
	c := dialRaw(t, server)
	c.write(0x89, "hi")
	if op, payload := c.frame(); op != 0x8A || string(payload) != "hi" {
		t.Errorf("the response to a ping is %x %q, want a pong", op, payload)
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
	s.Send(`{"event":"pusher:unsubscribe","data":{"channel":"c1"}}`)
	s.Send(`{"event":"pusher:subscribe","data":{"channel":"more"}}`)
	if m := s.Next(); m.Event != "pusher_internal:subscription_succeeded" {
		t.Errorf("a subscription after an unsubscription: received %s %s, want subscription_succeeded", m.Event, m.Data)
	}
}

func TestProtocolVersions(t *testing.T) {
	server, _ := start(t)
	for _, version := range []string{"5", "6", "7"} {
		if m := socket.DialFrom(t, server.URL, "/app/local?protocol="+version, server.URL).Next(); m.Event != "pusher:connection_established" {
			t.Errorf("version %s: received %s %s, want connection_established", version, m.Event, m.Data)
		}
	}
}

func TestRefusedConnections(t *testing.T) {
	tests := []struct {
		name, path, origin string
		code               ws.StatusCode
		text               string
	}{
		{"unknown key", "/app/other?protocol=7", "", 4001, "Did you forget to specify the cluster?"},
		{"unreadable protocol", "/app/local?protocol=seven", "", 4006, "protocol=7"},
		{"old protocol", "/app/local?protocol=4", "", 4007, "versions 5, 6 and 7"},
		{"new protocol", "/app/local?protocol=8", "", 4007, "versions 5, 6 and 7"},
		{"no protocol", "/app/local", "", 4008, "protocol=7"},
		{"another site", path, "https://evil.example", 4009, "origin"},
		{"null origin", path, "null", 4009, "origin"},
		{"a name like localhost", path, "http://localhost.evil.example", 4009, "origin"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, _ := start(t)
			s := socket.DialFrom(t, server.URL, tt.path, tt.origin)
			if m := s.Next(); m.Event != "pusher:error" || !strings.Contains(string(m.Data), fmt.Sprintf(`"code":%d`, tt.code)) || !strings.Contains(string(m.Data), tt.text) {
				t.Errorf("got %s %s; want code %d with %q", m.Event, m.Data, tt.code, tt.text)
			}
			if code := s.CloseCode(); code != int(tt.code) {
				t.Errorf("closed with %d, want %d", code, tt.code)
			}
		})
	}
}

// The server logs the reason when it closes a connection, because the operator doesn't see what the page shows: at level
// debug, because clients can repeat it.
func TestClosesAreLogged(t *testing.T) {
	var log bytes.Buffer
	s := New(app.ID, app.Key, app.Secret, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	server := httptest.NewServer(s)
	defer server.Close()
	socket.DialFrom(t, server.URL, path, "https://evil.example").CloseCode()
	malformed := dialRaw(t, server)
	malformed.write(0x82, "binary")
	malformed.wantClosed(ws.StatusUnsupportedData)
	s.Close()
	for _, want := range []string{"code=4009 reason=", `https://evil.example`, "code=1003 reason="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, log.String())
		}
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, " level=DEBUG ") {
			t.Errorf("not at level debug: %s", line)
		}
	}
}

func TestAllowedOrigins(t *testing.T) {
	tests := []struct {
		origin, host, peer string
		want               bool
	}{
		{"", "app.example", "192.0.2.1:5", true}, // programs send no Origin
		{"https://app.example", "app.example", "192.0.2.1:5", true},
		{"http://app.example:5000", "app.example:5000", "192.0.2.1:5", true},
		{"https://app.example", "app.example:5000", "192.0.2.1:5", false},
		{"http://App.example", "app.example", "192.0.2.1:5", true},
		{"https://evil.example", "app.example", "192.0.2.1:5", false},
		{"http://127.0.0.1:5001", "127.0.0.1:5000", "127.0.0.1:5", true},
		{"http://localhost:5001", "127.0.0.1:5000", "127.0.0.1:5", true},
		{"http://[::1]:5001", "localhost:5000", "[::1]:5", true},
		{"http://127.0.0.1:5001", "127.0.0.1:5000", "192.0.2.1:5", false},
		{"http://127.0.0.1:5001", "app.example", "127.0.0.1:5", true}, // a tunnel may rewrite Origin
		{"http://evil.example", "127.0.0.1:5000", "127.0.0.1:5", false},
		{"http://127.0.0.1.evil.example", "127.0.0.1:5000", "127.0.0.1:5", false},
		{"null", "127.0.0.1:5000", "127.0.0.1:5", false},
		{"file://", "127.0.0.1:5000", "127.0.0.1:5", false},
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
	tests := []struct {
		name   string
		header http.Header
		want   int
	}{
		{"good", nil, 101},
		{"Firefox", http.Header{"Connection": {"keep-alive, Upgrade"}}, 101},
		{"not a WebSocket", http.Header{"Upgrade": nil}, 426},
		{"no Connection", http.Header{"Connection": nil}, 400},
		{"old WebSocket", http.Header{"Sec-Websocket-Version": {"8"}}, 426},
		{"no key", http.Header{"Sec-Websocket-Key": nil}, 400},
		{"short key", http.Header{"Sec-Websocket-Key": {"dGhl"}}, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if status := handshake(t, server, tt.header); status != tt.want {
				t.Errorf("status %d, want %d", status, tt.want)
			}
		})
	}
	for line, want := range map[string]int{"GET " + path + " HTTP/1.0": 426, "HEAD " + path + " HTTP/1.1": 405} { // nginx uses HTTP/1.0 by default
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, strings.Replace(handshakeOf(path), "GET "+path+" HTTP/1.1", line, 1))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %v %v, want status %d", line, err, resp, want)
		}
	}
}

// The server reads frames that arrive together with the handshake.
func TestFramesWithHandshake(t *testing.T) {
	server, _ := start(t)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	const ping = "\x89\x80\x00\x00\x00\x00"
	io.WriteString(conn, handshakeOf(path)+ping+"\x81\x97\x00\x00\x00\x00"+`{"event":"pusher:ping"}`)
	c := &rawClient{t, conn, bufio.NewReader(conn)}
	if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	c.established()
	if head, _ := c.frame(); head != 0x8A {
		t.Errorf("received %x, want a pong", head)
	}
	if _, payload := c.frame(); !bytes.Contains(payload, []byte("pusher:pong")) {
		t.Errorf("received %s, want pusher:pong", payload)
	}
}

// handshake sends a WebSocket handshake, in which header overrides headers of the same name.
func handshake(t *testing.T, server *httptest.Server, header http.Header) (status int) {
	t.Helper()
	r, _ := http.NewRequest("GET", server.URL+path, nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for name, value := range header {
		r.Header[name] = value
	}
	resp, err := server.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// call is a call to the HTTP API. Each test changes one thing in a valid call.
type call struct {
	method, path string
	secret       string
	query        url.Values
	body         string
	after        func(*call) // changes the call after it has been signed
}

func (c *call) do(t *testing.T, server *httptest.Server) (status int, body string) {
	t.Helper()
	if c.query.Get("body_md5") == "" {
		sum := md5.Sum([]byte(c.body))
		c.query.Set("body_md5", hex.EncodeToString(sum[:]))
	}
	var names []string
	for name := range c.query {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = name + "=" + c.query.Get(name)
	}
	mac := hmac.New(sha256.New, []byte(c.secret))
	io.WriteString(mac, "POST\n"+c.path+"\n"+strings.Join(names, "&"))
	c.query.Set("auth_signature", hex.EncodeToString(mac.Sum(nil)))
	if c.after != nil {
		c.after(c)
	}
	r, err := http.NewRequest(c.method, server.URL+c.path+"?"+c.query.Encode(), strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestHTTPAPI(t *testing.T) {
	in := func(d time.Duration) string { return fmt.Sprint(time.Now().Add(d).Unix()) }
	body := func(name, channels, data string) string {
		return fmt.Sprintf(`{"name":%q,"channels":%s,"data":%q}`, name, channels, data)
	}
	repeat := func(s string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(s+",", n), ",") + "]"
	}
	one := `{"name":"e","channel":"a","data":"x"}`
	tests := []struct {
		name   string
		change func(*call)
		status int
		text   string
	}{
		{"good", func(c *call) {}, 200, "{}"},
		{"nearly too old", func(c *call) { c.query.Set("auth_timestamp", in(-590*time.Second)) }, 200, "{}"},
		{"nearly too new", func(c *call) { c.query.Set("auth_timestamp", in(590*time.Second)) }, 200, "{}"},
		{"one channel", func(c *call) { c.body = one }, 200, "{}"},
		{"more parameters", func(c *call) { c.query.Set("info", "user_count") }, 200, "{}"},
		{"too old", func(c *call) { c.query.Set("auth_timestamp", in(-610*time.Second)) }, 401, "Timestamp expired: Given timestamp (2"},
		{"too new", func(c *call) { c.query.Set("auth_timestamp", in(610*time.Second)) }, 401, "not within 600s of server time (2"},
		{"far too old", func(c *call) { c.query.Set("auth_timestamp", "-9223372036854775808") }, 401, "Timestamp expired"},
		{"not a number", func(c *call) { c.query.Set("auth_timestamp", "now") }, 401, "Timestamp expired"},
		{"wrong secret", func(c *call) { c.secret = "another" }, 401, "Invalid signature"},
		{"wrong key", func(c *call) { c.query.Set("auth_key", "another") }, 400, "Unknown auth_key"},
		{"wrong app", func(c *call) { c.path = "/apps/2/events" }, 404, "Unknown app"},
		{"parameters whose order changes with =", func(c *call) { c.query.Set("a", "1"); c.query.Set("a!", "1") }, 200, "{}"},
		{"unsigned", func(c *call) { c.after = func(c *call) { c.query.Del("auth_signature") } }, 401, "auth_signature is missing"},
		{"changed body", func(c *call) { c.after = func(c *call) { c.body = body("f", `["a"]`, "x") } }, 401, "Invalid body_md5"},
		{"changed body and MD5", func(c *call) {
			c.after = func(c *call) {
				c.body = one
				sum := md5.Sum([]byte(one))
				c.query.Set("body_md5", hex.EncodeToString(sum[:]))
			}
		}, 401, "Invalid signature"},
		{"added parameter", func(c *call) { c.after = func(c *call) { c.query.Set("info", "x") } }, 401, "Invalid signature"},
		{"parameter twice", func(c *call) { c.after = func(c *call) { c.query.Add("auth_key", "local") } }, 401, "Invalid signature"},
		{"other path", func(c *call) { c.after = func(c *call) { c.path = "/apps/1/batch_events" } }, 401, "Invalid signature"},
		{"not JSON", func(c *call) { c.body = "hello" }, 400, "not the JSON of an event"},
		{"data not a string", func(c *call) { c.body = `{"name":"e","channels":["a"],"data":{}}` }, 400, "cannot unmarshal object into Go struct field .event.data of type string"},
		{"no data", func(c *call) { c.body = `{"name":"e","channels":["a"]}` }, 400, "no data"},
		{"no name", func(c *call) { c.body = body("", `["a"]`, "x") }, 400, "name must have 1 to 200 characters"},
		{"longest name", func(c *call) { c.body = body(strings.Repeat("柱", 200), `["a"]`, "x") }, 200, "{}"},
		{"name too long", func(c *call) { c.body = body(strings.Repeat("柱", 201), `["a"]`, "x") }, 400, "200 characters"},
		{"no channel", func(c *call) { c.body = body("e", `[]`, "x") }, 400, "1 to 100 channels, not 0"},
		{"bad channel", func(c *call) { c.body = body("e", `["a","a b"]`, "x") }, 400, "Invalid channel name"},
		{"100 channels", func(c *call) { c.body = body("e", repeat(`"a"`, 100), "x") }, 200, "{}"},
		{"101 channels", func(c *call) { c.body = body("e", repeat(`"a"`, 101), "x") }, 400, "1 to 100 channels, not 101"},
		{"largest data", func(c *call) { c.body = body("e", `["a"]`, strings.Repeat("x", 10<<10)) }, 200, "{}"},
		{"data too large", func(c *call) { c.body = body("e", `["a"]`, strings.Repeat("x", 10<<10+1)) }, 413, "10240 bytes"},
		{"huge body", func(c *call) { c.body = strings.Repeat("x", 1<<20+1) }, 413, "The body is over"},
		{"bad socket_id", func(c *call) { c.body = `{"name":"e","channel":"a","data":"x","socket_id":"1"}` }, 400, "socket_id"},
		{"GET", func(c *call) { c.method = "GET" }, 405, "Method Not Allowed"},
		{"unknown path", func(c *call) { c.path = "/apps/1/channels" }, 404, "404"},
		{"batch", func(c *call) {
			c.path, c.body = "/apps/1/batch_events", `{"batch":`+repeat(one, 10)+`}`
		}, 200, "{}"},
		{"batch of 11", func(c *call) { c.path, c.body = "/apps/1/batch_events", `{"batch":`+repeat(one, 11)+`}` }, 400, "1 to 10 events, not 11"},
		{"batch of none", func(c *call) { c.path, c.body = "/apps/1/batch_events", `{"batch":[]}` }, 400, "1 to 10 events, not 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server, _ := start(t)
			s := connect(t, server, "a")
			c := &call{
				method: "POST", path: "/apps/1/events", secret: app.Secret,
				query: url.Values{"auth_key": {app.Key}, "auth_timestamp": {in(0)}, "auth_version": {"1.0"}},
				body:  body("e", `["a"]`, "x"),
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

// A batch is accepted as a whole or not at all.
func TestBatchIsAtomic(t *testing.T) {
	server, client := start(t)
	s := connect(t, server, "a")
	_, err := client.TriggerBatch([]pusher.Event{
		{Channel: "a", Name: "good", Data: "x"},
		{Channel: "a", Name: "", Data: "x"},
	})
	if err == nil {
		t.Error("a batch with an event that has no name was accepted")
	}
	s.WantNoMessage()
}

// A subscriber that does not read is disconnected; the others receive everything, in order.
func TestSlowSubscriberIsDropped(t *testing.T) {
	s := New(app.ID, app.Key, app.Secret, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(s)
	defer server.Close()
	defer s.Close()
	slow := dialRaw(t, server).subscribe("a") // reads nothing more
	var connection *connection
	for connection = range s.connections {
	}
	quick := connect(t, server, "a")
	data := strings.Repeat("x", 10_000)
	sent := 0
	publish := func() {
		s.publish([]event{{Name: fmt.Sprint(sent), Channels: []string{"a"}, Data: &data}})
		quick.WantEvent("a", fmt.Sprint(sent), data)
		sent++
	}
	dropped := func() bool {
		connection.mu.Lock()
		defer connection.mu.Unlock()
		return connection.closing
	}
	for !dropped() {
		if publish(); sent*len(data) > 16<<20 { // its socket holds some megabytes as well
			t.Fatalf("not dropped after %d bytes", sent*len(data))
		}
	}
	if n, err := io.Copy(io.Discard, slow.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("received %d bytes, and is still connected", n)
	}
	publish()
}

// dialRaw connects over TCP and waits until the connection is established.
func dialRaw(t testing.TB, server *httptest.Server) *rawClient {
	t.Helper()
	return newRawClient(t, dialTCP(t, server), path).established()
}

// dialTCP connects over TCP.
func dialTCP(t testing.TB, server *httptest.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(timeout))
	return conn
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
		{"not masked", "\x81\x01x", 1002},
		{"reserved bits", "\xf1\x81\x00\x00\x00\x00x", 1002},
		{"unknown opcode", "\x83\x80\x00\x00\x00\x00", 1002},
		{"not UTF-8", "\x81\x81\x00\x00\x00\x00\xff", 1007},
		{"over 8 KB", "\x81\xfe\x20\x01\x00\x00\x00\x00" + many("x", 8193), 1009},
		{"a length of 2⁶³ bytes or more", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1009},
		{"fragments over 8 KB", "\x01\x80\x00\x00\x00\x00" + many("\x00\xfe\x10\x00\x00\x00\x00\x00"+many("x", 0x1000), 3), 1009},
		{"continuation without a first fragment", "\x80\x80\x00\x00\x00\x00", 1002},
		{"long ping", "\x89\xfe\x00\x7e\x00\x00\x00\x00" + many("x", 126), 1002},
		{"close", "\x88\x82\x00\x00\x00\x00\x03\xe8", 1000},
		{"short close", "\x88\x81\x00\x00\x00\x00\x03", 1002},
		{"a message after a close", "\x88\x82\x00\x00\x00\x00\x03\xe8\x81\x82\x00\x00\x00\x00{}", 1000},
		{"too many messages", many("\x81\xfe\x01\x00\x00\x00\x00\x00"+many(" ", 254)+"{}", 200), 4100},
		{"too many pings", many("\x89\x80\x00\x00\x00\x00", 8000), 4100},
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

// After an invalid frame, the connection stays open for a while, for the client's close frame.
func TestConnectionLingersAfterInvalidFrame(t *testing.T) {
	server, _ := start(t)
	c := dialRaw(t, server)
	c.write(0xf1, "reserved bits")
	if head, payload := c.frame(); head != closeHead {
		t.Fatalf("received %x %q, want a close frame", head, payload)
	}
	start := time.Now()
	if rest, err := io.ReadAll(c.r); len(rest) > 0 || err != nil {
		t.Errorf("after the close frame: received %x, error %v; want EOF", rest, err)
	}
	if took := time.Since(start); took < lingerTime/2 || took > closeTimeout {
		t.Errorf("the server ended the connection after %v", took)
	}
}

// All events of a sender arrive, in the order in which they were sent, even if several senders
// send at the same time.
func TestOrder(t *testing.T) {
	server, client := start(t)
	client.HTTPClient.Transport.(*http.Transport).MaxIdleConnsPerHost = 8
	const senders, events, subscribers = 8, 50, 20
	var received []*socket.Client
	for range subscribers {
		received = append(received, connect(t, server, "a"))
	}
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
	sending.Wait()
	for _, h := range received {
		next := map[string]int{}
		for range senders * events {
			m := h.Next()
			if m.Text() != fmt.Sprint(next[m.Event]) {
				t.Fatalf("sender %s: received event %s, want %d", m.Event, m.Text(), next[m.Event])
			}
			next[m.Event]++
		}
	}
}

func TestClose(t *testing.T) {
	embedded := New(app.ID, app.Key, app.Secret, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(embedded)
	defer server.Close()
	s := connect(t, server, "a")
	raw := dialRaw(t, server)
	unresponsive := dialRaw(t, server) // never sends a close frame
	client := &pusher.Client{AppID: app.ID, Key: app.Key, Secret: app.Secret, Host: strings.TrimPrefix(server.URL, "http://")}
	if err := client.Trigger("a", "last", "x"); err != nil {
		t.Fatal(err)
	}
	closed := make(chan bool)
	go func() {
		embedded.Close()
		close(closed)
	}()
	s.WantEvent("a", "last", "x")
	raw.wantClosed(4200)
	if code := s.CloseCode(); code != 4200 {
		t.Errorf("closed with %d, want 4200", code)
	}
	<-closed
	if _, err := io.Copy(io.Discard, unresponsive.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a client that does not respond is still connected")
	}
	late := newRawClient(t, dialTCP(t, server), path)
	if head, payload := late.frame(); head != 0 {
		t.Errorf("a new connection received %x %s", head, payload)
	}
	embedded.Close() // allowed, and does nothing
}

// A client that connects during Close does not receive a close frame with 4200 alone, after which pusher-js would retry
// without a pause.
func TestCloseWhileClientsConnect(t *testing.T) {
	for range 20 {
		s := New(app.ID, app.Key, app.Secret, slog.New(slog.DiscardHandler))
		server := httptest.NewServer(s)
		var clients sync.WaitGroup
		connected := make(chan bool, 100)
		for range 20 {
			clients.Go(func() {
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				io.WriteString(conn, handshakeOf(path))
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil)
				connected <- true
				if err != nil || resp.StatusCode == http.StatusServiceUnavailable {
					return
				}
				if head, payload := (&rawClient{t, conn, r}).frame(); head == closeHead {
					t.Errorf("the first frame is %x %q", head, payload)
				}
			})
		}
		<-connected
		s.Close()
		clients.Wait()
		server.Close()
	}
}

// BenchmarkFanout measures the time from the trigger of an event until its last subscriber has received it.
func BenchmarkFanout(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			server, client := start(b)
			var subscribers []*socket.Client
			for range n {
				subscribers = append(subscribers, connect(b, server, "c"))
			}
			for b.Loop() {
				if err := client.Trigger("c", "event", "data"); err != nil {
					b.Fatal(err)
				}
				for _, s := range subscribers {
					s.Next()
				}
			}
		})
	}
}
