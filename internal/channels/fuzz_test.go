package channels

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"pusher-sample/internal/pusherapi"

	"github.com/pusher/pusher-http-go/v5"
	"golang.org/x/time/rate"
)

// FuzzSignature has pusher-http-go sign requests. The server accepts the signatures, whatever the requests contain.
func FuzzSignature(f *testing.F) {
	f.Add("hit", "data", "secret")
	f.Add("", "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!", "")
	f.Fuzz(func(t *testing.T, name, data, secret string) {
		s := New("1", "key", secret, slog.New(slog.DiscardHandler))
		client := pusher.Client{AppID: "1", Key: "key", Secret: secret, Host: "x"}
		client.HTTPClient = pusherapi.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.ServeHTTP(w, r)
			if w.(*httptest.ResponseRecorder).Code == http.StatusUnauthorized {
				t.Error("the server rejected the signature of pusher-http-go")
			}
		}))
		client.TriggerMulti([]string{"a", "b"}, name, data)
	})
}

// FuzzFrames sends arbitrary bytes after the handshake. The server's last frame is its only close frame, the connection
// is removed, and another connection still works.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{
		"\x81\x82\x00\x00\x00\x00{}", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"\x01\x80\x00\x00\x00\x00\x80\x80\x00\x00\x00\x00", "\x88\x80\x00\x00\x00\x00", "\x89\x80\x00\x00\x00\x00\x82",
		"\x88\x82\x00\x00\x00\x00\x03\xe8\x81\x82\x00\x00\x00\x00{}", "\x82\x81\x00\x00\x00\x00x\x88\x80\x00\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	server, _ := start(f)
	s := server.Config.Handler.(*Server)
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
		last, closes := byte(0), 0
		for head, _ := c.frame(); head != 0; head, _ = c.frame() {
			if last = head; head == closeHead {
				closes++
			}
		}
		if last != closeHead || closes != 1 {
			t.Errorf("%d close frames, and the last frame is %x; want one close frame at the end", closes, last)
		}
		witness.write(0x89, "alive?")
		if head, payload := witness.frame(); head != 0x8A || string(payload) != "alive?" {
			t.Fatalf("another connection got %x %q, want its pong", head, payload)
		}
		for end, left := time.Now().Add(timeout), 2; left > 1; runtime.Gosched() {
			s.mu.Lock()
			left = len(s.connections)
			s.mu.Unlock()
			if time.Now().After(end) {
				t.Fatalf("%d connections are left, want only the other one", left)
			}
		}
	})
}
