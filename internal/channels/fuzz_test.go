package channels

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lxzan/gws"
	"github.com/pusher/pusher-http-go/v5"
)

// tamper is a RoundTripper that changes a signed request on its way.
type tamper struct {
	handler http.Handler
	change  func(r *http.Request)
	status  int
}

func (t *tamper) RoundTrip(r *http.Request) (*http.Response, error) {
	t.change(r)
	w := httptest.NewRecorder()
	t.handler.ServeHTTP(w, r)
	t.status = w.Code
	return w.Result(), nil
}

// FuzzSignature has pusher-http-go sign requests: those are taken, whatever they
// hold, and refused if any byte of the query or the body is changed on the way.
func FuzzSignature(f *testing.F) {
	f.Add("hit", "data", "secret", uint16(0), byte(1), false)
	f.Add("", "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!", "", uint16(40), byte(32), true)
	f.Fuzz(func(t *testing.T, name, data, secret string, at uint16, flip byte, inBody bool) {
		if flip == 0 {
			return
		}
		s := New(App{"1", "key", secret}, slog.New(slog.DiscardHandler))
		defer s.Close()
		wire := &tamper{handler: s, change: func(*http.Request) {}}
		client := pusher.Client{AppID: "1", Key: "key", Secret: secret, Host: "x", HTTPClient: &http.Client{Transport: wire}}
		params := pusher.TriggerParams{}
		if _, err := client.TriggerMultiWithParams([]string{"a", "b"}, name, data, params); err != nil && wire.status == http.StatusUnauthorized {
			t.Fatalf("a request that pusher-http-go signed is refused: %v", err)
		}
		wire.change = func(r *http.Request) {
			if inBody {
				body, _ := io.ReadAll(r.Body)
				body[int(at)%len(body)] ^= flip
				r.Body = io.NopCloser(bytes.NewReader(body))
				return
			}
			query := []byte(r.URL.RawQuery)
			query[int(at)%len(query)] ^= flip
			r.URL.RawQuery = string(query)
		}
		client.TriggerMulti([]string{"a"}, "hit", "data")
		if wire.status < 400 {
			t.Errorf("a request that was changed on the way is taken with status %d", wire.status)
		}
	})
}

// FuzzMessages sends anything as a client's message: the connection lives on,
// and what comes back is a message each.
func FuzzMessages(f *testing.F) {
	for _, seed := range []string{
		`{"event":"pusher:ping","data":{}}`, `{"event":"pusher:subscribe","data":{"channel":"a"}}`,
		`{"event":"pusher:subscribe","data":"{\"channel\":\"a\"}"}`, `{"event":"client-x","data":null}`, `[[[`, "\x00",
	} {
		f.Add([]byte(seed))
	}
	s := New(App{"1", "key", "secret"}, slog.New(slog.DiscardHandler))
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, text []byte) {
		k := &socket{server: s, id: "1.1", writing: true} // a writer that never comes: all stays in waiting
		message := &gws.Message{Opcode: gws.OpcodeText, Data: bytes.NewBuffer(text)}
		k.handle(message)
		if len(k.waiting) > 1 {
			t.Errorf("%d answers to one message", len(k.waiting))
		}
		s.remove(k)
		if len(s.channels) != 0 {
			t.Errorf("left behind: %v", s.channels)
		}
	})
}

// FuzzFrames sends anything after the handshake, and looks whether the server
// still serves.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{
		"\x81\x82\x00\x00\x00\x00{}", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"\x01\x80\x00\x00\x00\x00\x80\x80\x00\x00\x00\x00", "\x88\x80\x00\x00\x00\x00", "\x89\x80\x00\x00\x00\x00\x82",
	} {
		f.Add([]byte(seed))
	}
	s := New(App{"1", "k", "secret"}, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(s)
	f.Cleanup(func() { server.Close(); s.Close() })
	f.Fuzz(func(t *testing.T, bytes []byte) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
		if err != nil {
			t.Skip("no more local ports: ", err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /app/k?protocol=7 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		conn.Write(bytes)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
	})
}
