package channels

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"

	"github.com/gobwas/ws"
)

// timed runs a test with synctest's fake clock and a server that is closed at the end.
func timed(t *testing.T, test func(t *testing.T, s *Server, p pipe.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		s := New(app.ID, app.Key, app.Secret, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
		p := make(pipe.Listener)
		web := &http.Server{Handler: s}
		go web.Serve(p)
		defer s.Close()
		defer web.Close()
		test(t, s, p)
	})
}

func TestIdleClientIsPingedBeforeHerokuDisconnects(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		time.Sleep(time.Hour) // a new connection is not idle, however long the server has been running
		c := dialPipe(t, p).established()
		for range 5 { // the client does nothing but respond to pings
			start := time.Now()
			head, _ := c.frame()
			if head != 0x89 {
				t.Fatalf("received %x after %v, want a ping", head, time.Since(start))
			}
			if wait := time.Since(start); wait < s.PingAfter || wait > 54*time.Second {
				t.Errorf("received the ping after %v, want at least %v and less than 55 s, when Heroku disconnects", wait, s.PingAfter)
			}
			c.write(0x8A, "")
		}
		c.conn.Close()
	})
}

func TestDeadClientIsDropped(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		start := time.Now()
		pings := 0
		for {
			head, payload := c.frame() // the client reads, but never responds
			if head == 0x89 {
				pings++
				continue
			}
			if head != 0x88 || binary.BigEndian.Uint16(payload) != uint16(codeNoPong) {
				t.Errorf("got %x %q, want a close with %d", head, payload, codeNoPong)
			}
			break
		}
		if took := time.Since(start); pings != 1 || took != s.PingAfter+s.PongTimeout {
			t.Errorf("closed after %v and %d pings, want one ping, and %v after it a close", took, pings, s.PongTimeout)
		}
		io.Copy(io.Discard, c.r) // until the connection ends
		synctest.Wait()
		if len(s.connections) != 0 {
			t.Error("the connection is still registered")
		}
	})
}

func TestClientThatDoesNotReadIsDropped(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p) // reads nothing: a pipe has no buffer, so the first write blocks
		time.Sleep(s.PingAfter + s.PongTimeout + closeTimeout)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.connections) != 0 {
			t.Error("the client is still connected")
		}
		c.conn.Close()
	})
}

// A client that sends messages but reads no responses can't send more than the first one, and is disconnected.
func TestClientThatReadsNoResponses(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		start := time.Now()
		c.write(0x81, `{"event":"unknown"}`)
		sent := 0
		for ; sent < 100; sent++ {
			if _, err := c.conn.Write([]byte("\x81\x82\x00\x00\x00\x00{}")); err != nil {
				break
			}
		}
		if took := time.Since(start); sent > 64 || took != writeTimeout { // the server has a buffer of 512 bytes
			t.Errorf("sent %d messages within %v, want to be disconnected after %v", sent, took, writeTimeout)
		}
	})
}

// A client that reads may send messages while events arrive as well, and its write deadline ends with them.
func TestResponsesAmongEvents(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established().subscribe("a")
		go io.Copy(io.Discard, c.r)
		data := "x"
		for range 100 {
			s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
			c.write(0x81, `{"event":"unknown"}`)
			synctest.Wait()
			time.Sleep(writeTimeout)
		}
		for connection := range s.connections {
			if connection.closing {
				t.Error("the connection is closing")
			}
		}
		c.conn.Close()
	})
}

func TestActiveClientIsNotPinged(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		for range 20 {
			time.Sleep(s.PingAfter - time.Second)
			c.write(0x81, `{"event":"pusher:ping"}`)
			if head, payload := c.frame(); head != 0x81 || !bytes.Contains(payload, []byte("pusher:pong")) {
				t.Fatalf("got %x %s, want pusher:pong", head, payload)
			}
		}
		c.conn.Close()
	})
}

// A client that keeps up with a constant backlog of events stays connected after it has sent a message.
func TestBusySubscriber(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established().subscribe("a")
		data := "x"
		publish := func() { s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}}) }
		for range 50 {
			publish()
		}
		c.write(0x81, `{"event":"pusher:ping"}`)
		for range 300 { // 30 s
			if head, _ := c.frame(); head != 0x81 {
				t.Fatalf("received %x, want an event", head)
			}
			publish()
			time.Sleep(100 * time.Millisecond)
		}
		c.conn.Close()
	})
}

// From a refused client, the server handles no messages.
func TestRefusedClientCannotSubscribe(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := newRawClient(t, p.Dial(), "/app/other?protocol=7")
		go io.Copy(io.Discard, c.r)
		c.write(0x81, `{"event":"pusher:subscribe","data":{"channel":"a"}}`)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.channels) != 0 {
			t.Errorf("subscriptions: %v", s.channels)
		}
		c.conn.Close()
	})
}

func TestTooManyConnections(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		first := dialPipe(t, p).established()
		s.mu.Lock()
		for range maxConnections - 1 {
			s.connections[new(connection{Conn: first.conn})] = struct{}{}
		}
		s.mu.Unlock()
		dialPipe(t, p).wantClosed(codeOverCapacity)
		first.conn.Close()
		synctest.Wait()
		second := dialPipe(t, p).established()
		second.conn.Close()
		synctest.Wait()
		clear(s.connections) // none of the others can be closed
	})
}

// The queue of a subscriber is bounded, including the frames that are being written.
func TestQueueIsBounded(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established().subscribe("a") // reads nothing more
		data := "x"
		for range maxQueuedFrames {
			s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
			synctest.Wait()
		}
		if len(s.connections) != 1 {
			t.Errorf("the client was disconnected within %d events", maxQueuedFrames)
		}
		s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
		synctest.Wait()
		if len(s.connections) != 0 {
			t.Error("the client is still connected")
		}
		c.conn.Close()
	})
}

func TestCloseDoesNotWaitForUnresponsiveClient(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		start := time.Now()
		s.Close()
		if took := time.Since(start); took > closeTimeout {
			t.Errorf("Close took %v", took)
		}
		c.conn.Close()
	})
}

func TestNoEventFollowsCloseFrame(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established().subscribe("a")
		c.write(0x82, "binary")
		synctest.Wait() // until the close frame is being written
		data := "x"
		s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
		c.wantClosed(ws.StatusUnsupportedData)
	})
}
