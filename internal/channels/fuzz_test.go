package channels

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/pusher/pusher-http-go/v5"
	"golang.org/x/time/rate"
)

// tamper is a RoundTripper that changes a signed request before handler receives it, and records
// the status of the response.
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

// FuzzSignature has pusher-http-go sign requests. The server accepts the signatures, whatever the
// requests contain, and rejects a request if a byte of its query or body was changed.
func FuzzSignature(f *testing.F) {
	f.Add("hit", "data", "secret", uint16(0), byte(1), false)
	f.Add("", "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!", "", uint16(40), byte(32), true)
	f.Fuzz(func(t *testing.T, name, data, secret string, at uint16, flip byte, inBody bool) {
		if flip == 0 {
			return
		}
		s := New("1", "key", secret, slog.New(slog.DiscardHandler))
		defer s.Close()
		wire := &tamper{handler: s, change: func(*http.Request) {}}
		client := pusher.Client{AppID: "1", Key: "key", Secret: secret, Host: "x", HTTPClient: &http.Client{Transport: wire}}
		params := pusher.TriggerParams{}
		if _, err := client.TriggerMultiWithParams([]string{"a", "b"}, name, data, params); err != nil && wire.status == http.StatusUnauthorized {
			t.Fatalf("the server rejected a request that pusher-http-go signed: %v", err)
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
			t.Errorf("a request that was changed in transit got status %d, want an error", wire.status)
		}
	})
}

// FuzzMessages handles arbitrary text as a client's message: the server sends at most one
// message in response, and removes all subscriptions with the connection.
func FuzzMessages(f *testing.F) {
	for _, seed := range []string{
		`{"event":"pusher:ping","data":{}}`, `{"event":"pusher:subscribe","data":{"channel":"a"}}`,
		`{"event":"pusher:subscribe","data":"{\"channel\":\"a\"}"}`, `{"event":"client-x","data":null}`, `[[[`, "\x00",
	} {
		f.Add([]byte(seed))
	}
	s := New("1", "key", "secret", slog.New(slog.DiscardHandler))
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, text []byte) {
		// With writing set, as during a write, all frames stay in the queue.
		c := &connection{server: s, id: "1.1", writing: true}
		c.handle(text)
		if len(c.queue) > 1 {
			t.Errorf("%d responses to one message, want at most 1", len(c.queue))
		}
		s.remove(c)
		if len(s.channels) != 0 {
			t.Errorf("subscriptions are left: %v", s.channels)
		}
	})
}

// FuzzFrames sends arbitrary bytes after the handshake. The server's last frame is its only
// close frame, the connection is removed, and another connection still works.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{
		"\x81\x82\x00\x00\x00\x00{}", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"\x01\x80\x00\x00\x00\x00\x80\x80\x00\x00\x00\x00", "\x88\x80\x00\x00\x00\x00", "\x89\x80\x00\x00\x00\x00\x82",
		"\x88\x82\x00\x00\x00\x00\x03\xe8\x81\x82\x00\x00\x00\x00{}", "\x82\x81\x00\x00\x00\x00x\x88\x80\x00\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	s := New(app.ID, app.Key, app.Secret, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(s)
	f.Cleanup(func() { server.Close(); s.Close() })
	witness := dialRaw(f, server)
	s.mu.Lock()
	for c := range s.connections {
		c.received.SetLimit(rate.Inf)
	}
	s.mu.Unlock()
	f.Fuzz(func(t *testing.T, bytes []byte) {
		witness.t = t
		witness.conn.SetDeadline(time.Now().Add(timeout))
		c := dialRaw(t, server)
		c.conn.Write(bytes) // may fail: the server may have closed already
		c.conn.(*net.TCPConn).CloseWrite()
		closed := false
		for {
			head, payload := c.frame()
			if head == 0 {
				break
			}
			if closed {
				t.Fatalf("received %x %q after a close frame", head, payload)
			}
			closed = head == closeHead
		}
		if !closed {
			t.Error("the connection ended without a close frame")
		}
		witness.write(0x89, "alive?")
		if head, payload := witness.frame(); head != 0x8A || string(payload) != "alive?" {
			t.Fatalf("another connection got %x %q, want its pong", head, payload)
		}
		for end := time.Now().Add(timeout); ; runtime.Gosched() {
			s.mu.Lock()
			connections := len(s.connections)
			s.mu.Unlock()
			if connections == 1 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d connections are left, want none", connections-1)
			}
		}
	})
}
