package channels

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"

	"github.com/gobwas/ws"
)

// timed runs a test with synctest's fake clock and a server that is closed at the end.
func timed(t *testing.T, test func(t *testing.T, s *Server, p pipe.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		s := New(app, Options{}, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
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
			if wait := time.Since(start); wait < pingAfter || wait > 54*time.Second {
				t.Errorf("received the ping after %v, want at least %v and less than 55 s, when Heroku disconnects", wait, pingAfter)
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
		if took := time.Since(start); pings == 0 || took < dropAfter || took > dropAfter+2*sweepInterval {
			t.Errorf("closed after %v and %d pings, want at least one ping and about %v", took, pings, dropAfter)
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
		time.Sleep(writeTimeout + closeTimeout + 2*sweepInterval)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.connections) != 0 {
			t.Error("the client is still connected")
		}
		c.conn.Close()
	})
}

func TestActiveClientIsNotPinged(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		for range 20 {
			time.Sleep(pingAfter - sweepInterval)
			c.write(0x81, `{"event":"pusher:ping"}`)
			if head, payload := c.frame(); head != 0x81 || !bytes.Contains(payload, []byte("pusher:pong")) {
				t.Fatalf("got %x %s, want pusher:pong", head, payload)
			}
		}
		c.conn.Close()
	})
}

func TestTooManyConnections(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		s.options.MaxConnections = 2
		first, second := dialPipe(t, p).established(), dialPipe(t, p).established()
		dialPipe(t, p).wantClosed(codeOverCapacity)
		first.conn.Close()
		synctest.Wait()
		third := dialPipe(t, p).established()
		second.conn.Close()
		third.conn.Close()
	})
}

func TestTooManyConnectionsOfOneClient(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		address := netip.MustParsePrefix("192.0.2.1/32")
		s.options.ClientAddress = func(*http.Request) netip.Prefix { return address }
		var clients []*rawClient
		for range maxPerClient {
			clients = append(clients, dialPipe(t, p).established())
		}
		dialPipe(t, p).wantClosed(codeOverCapacity)
		address = netip.MustParsePrefix("192.0.2.2/32")
		clients = append(clients, dialPipe(t, p).established())
		for _, c := range clients {
			c.conn.Close()
		}
		synctest.Wait()
		if len(s.clients) != 0 {
			t.Errorf("still counted: %v", s.clients)
		}
	})
}

// The queue of a subscriber is bounded, including the frames that are being written.
func TestQueueIsBounded(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established().subscribe("a") // reads nothing more
		data := "x"
		publish := func() (queued int64) {
			s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
			synctest.Wait()
			return s.queued.Load()
		}
		for range maxQueuedFrames - 1 {
			publish()
		}
		if queued := publish(); queued != maxQueuedFrames {
			t.Errorf("%d frames are queued, want %d", queued, maxQueuedFrames)
		}
		if queued := publish(); queued > 2 { // the frames being written, and a close frame
			t.Errorf("%d frames are queued after one too many, want at most 2", queued)
		}
		c.conn.Close()
	})
}

// A client that sends messages but reads no responses is dropped before the responses use much
// memory, although its messages are few enough.
func TestUnreadResponsesAreBounded(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		for i := range maxMessages {
			c.write(0x81, `{"event":"unknown"}`)
			synctest.Wait()
			if n := s.queued.Load(); n > maxUnanswered+1 {
				t.Fatalf("%d responses are queued after %d messages, want at most %d", n, i+1, maxUnanswered+1)
			}
		}
		for connection := range s.connections {
			if !connection.closing {
				t.Error("the connection is not closing")
			}
		}
		c.conn.Close()
	})
}

// A client that reads may send as many messages as the limit allows, while events arrive as well.
func TestReadResponsesAreNotBounded(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established().subscribe("a")
		go io.Copy(io.Discard, c.r)
		data := "x"
		for range maxMessages - 1 {
			s.publish([]event{{Name: "e", Channels: []string{"a"}, Data: &data}})
			c.write(0x81, `{"event":"unknown"}`)
			synctest.Wait()
		}
		for connection := range s.connections {
			if connection.closing {
				t.Error("the connection is closing")
			}
		}
		c.conn.Close()
	})
}

// Subscribers that read nothing are dropped when all queues together are too long;
// those that read receive every event.
func TestLongestQueuesAreDroppedFirst(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		var stalled []*rawClient
		for range 200 {
			stalled = append(stalled, dialPipe(t, p).established().subscribe("a"))
		}
		reader := dialPipe(t, p).established().subscribe("a")
		data := "x"
		events := maxQueuedTotal/len(stalled) + 100
		for i := range events {
			s.publish([]event{{Name: fmt.Sprint(i), Channels: []string{"a"}, Data: &data}})
			if _, payload := reader.frame(); !bytes.Contains(payload, fmt.Appendf(nil, `"event":"%d"`, i)) {
				t.Fatalf("want event %d, received %s", i, payload)
			}
		}
		time.Sleep(closeTimeout)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.connections) != 1 || s.queued.Load() != 0 {
			t.Errorf("%d connections and %d queued frames are left, want the reader's alone", len(s.connections), s.queued.Load())
		}
		for _, c := range append(stalled, reader) {
			c.conn.Close()
		}
	})
}

// Activity is measured from the server's start by the monotonic clock, so setting the
// machine's clock changes nothing.
func TestActivityIsMonotonic(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipe.Listener) {
		c := dialPipe(t, p).established()
		time.Sleep(20 * time.Second)
		c.write(0x8A, "")
		synctest.Wait()
		for connection := range s.connections {
			if activity := time.Duration(connection.lastActivity.Load()); activity != 20*time.Second {
				t.Errorf("the last activity was %v after the start, want 20 s", activity)
			}
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
