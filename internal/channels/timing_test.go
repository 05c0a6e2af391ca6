package channels

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"
)

// timed runs a test with synctest's fake clock and a server that is closed at the end.
func timed(t *testing.T, test func(t *testing.T, s *Server, p pipe.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		s := New(app.ID, app.Key, app.Secret, slog.New(slog.DiscardHandler))
		p := make(pipe.Listener)
		web := &http.Server{Handler: s}
		go web.Serve(p)
		defer s.Close()
		defer web.Close()
		test(t, s, p)
	})
}

// publish publishes an event on the channel a.
func publish(s *Server, data string) {
	s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
}

// connected returns the number of connections once all goroutines wait.
func connected(s *Server) int {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.connections)
}

func TestIdleClientIsPingedBeforeHerokuDisconnects(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		time.Sleep(time.Hour) // a new connection is not idle, however long the server has been running
		c := dialPipe(t, p).established()
		for range 5 { // the client does nothing but respond to pings
			start := time.Now()
			head, _ := c.frame()
			if wait := time.Since(start); head != 0x89 || wait < s.PingAfter || wait > 54*time.Second {
				t.Fatalf("received %x after %v, want a ping after %v to 54 s", head, wait, s.PingAfter)
			}
			c.write(0x8A, "")
		}
	})
}

func TestDeadClientIsDropped(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		start := time.Now()
		ping, _ := c.frame() // the client reads, but never responds
		head, payload := c.frame()
		if ping != 0x89 || head != closeHead || binary.BigEndian.Uint16(payload) != uint16(codeNoPong) {
			t.Errorf("received %x, then %x %q; want a ping, then a close with %d", ping, head, payload, codeNoPong)
		}
		if took := time.Since(start); took != s.PingAfter+s.PongTimeout {
			t.Errorf("closed after %v, want %v after the ping", took, s.PongTimeout)
		}
		io.Copy(io.Discard, c.r) // until the connection ends
		if connected(s) != 0 {
			t.Error("the connection is still registered")
		}
	})
}

// The server handles no messages from a refused client.
func TestRefusedClientCannotSubscribe(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := newRawClient(t, p.Dial(), "/app/other?protocol=7")
		go io.Copy(io.Discard, c.r)
		c.write(0x81, `{"event":"pusher:subscribe","data":{"channel":"a"}}`)
		if connected(s); len(s.channels) != 0 {
			t.Errorf("subscriptions: %v", s.channels)
		}
	})
}

func TestTooManyConnections(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		first := dialPipe(t, p).established()
		connected(s)
		for range maxConnections - 1 {
			s.connections[new(connection{conn: first.conn})] = struct{}{}
		}
		dialPipe(t, p).wantClosed(codeOverCapacity)
		first.conn.Close()
		synctest.Wait()
		dialPipe(t, p).established().conn.Close()
		synctest.Wait()
		clear(s.connections) // none of the others can be closed
	})
}

// The queue of a subscriber that doesn't read is bounded. Publishing never waits.
func TestQueueIsBounded(t *testing.T) {
	for size, fit := range map[int]int{1: maxQueuedFrames, 10_000: maxQueuedBytes / 10_040} {
		timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
			dialPipe(t, p).established().subscribe() // reads nothing more
			for range 1 + fit {                      // the first one is being written
				publish(s, strings.Repeat("x", size))
				synctest.Wait()
			}
			if connected(s) != 1 {
				t.Errorf("the client was disconnected within %d events of %d bytes", 1+fit, size)
			}
			publish(s, strings.Repeat("x", size))
			if connected(s) != 0 {
				t.Errorf("after %d events of %d bytes, the client is still connected", 2+fit, size)
			}
		})
	}
}

func TestCloseDoesNotWaitForUnresponsiveClient(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		dialPipe(t, p).established()
		start := time.Now()
		s.Close()
		if took := time.Since(start); took > closeTimeout {
			t.Errorf("Close took %v", took)
		}
	})
}
