package channels

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory, for synctest's clock to
// run over.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// peer is a client on a pipe.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (p pipes) dial(t *testing.T) *peer {
	t.Helper()
	here, there := net.Pipe()
	p <- there
	c := &peer{t, here, bufio.NewReader(here)}
	fmt.Fprint(here, "GET /app/k?protocol=7 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v %v", resp, err)
	}
	return c
}

// frame reads one frame; head 0 is the end of the connection.
func (c *peer) frame() (head byte, payload []byte) {
	var h [4]byte
	if _, err := io.ReadFull(c.r, h[:2]); err != nil {
		return 0, nil
	}
	n := int(h[1])
	if n == 126 {
		io.ReadFull(c.r, h[2:])
		n = int(binary.BigEndian.Uint16(h[2:]))
	}
	payload = make([]byte, n)
	io.ReadFull(c.r, payload)
	return h[0], payload
}

func (c *peer) established() {
	c.t.Helper()
	if _, payload := c.frame(); !bytes.Contains(payload, []byte("connection_established")) {
		c.t.Fatalf("first message: %s", payload)
	}
}

func (c *peer) write(head byte, payload string) {
	io.WriteString(c.conn, string([]byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0})+payload)
}

// timed runs a test on synctest's clock, with a server that is closed at its end.
func timed(t *testing.T, test func(t *testing.T, s *Server, p pipes)) {
	synctest.Test(t, func(t *testing.T) {
		s := New(App{"1", "k", "s"}, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
		p := make(pipes)
		web := &http.Server{Handler: s}
		go web.Serve(p)
		test(t, s, p)
		web.Close()
		s.Close()
	})
}

func TestQuietClientIsPingedInTimeForHeroku(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipes) {
		c := p.dial(t)
		c.established()
		for range 5 { // minutes of silence but for pings, answered
			start := time.Now()
			head, _ := c.frame()
			if head != 0x89 {
				t.Fatalf("after %v came %x, not a ping", time.Since(start), head)
			}
			if wait := time.Since(start); wait > 54*time.Second {
				t.Errorf("the ping came after %v; Heroku cuts at 55s", wait)
			}
			c.write(0x8A, "")
		}
		c.conn.Close()
	})
}

func TestDeadClientIsDropped(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipes) {
		c := p.dial(t)
		c.established()
		start := time.Now()
		pings := 0
		for {
			head, payload := c.frame() // reads, but never answers
			if head == 0x89 {
				pings++
				continue
			}
			if head != 0x88 || binary.BigEndian.Uint16(payload) != codeNoPong {
				t.Errorf("got %x %q, want a close with %d", head, payload, codeNoPong)
			}
			break
		}
		if took := time.Since(start); pings == 0 || took < dropAfter || took > dropAfter+2*sweepEvery {
			t.Errorf("closed after %v and %d pings", took, pings)
		}
		io.Copy(io.Discard, c.r) // until the connection ends
		synctest.Wait()
		if len(s.sockets) != 0 {
			t.Error("it is still counted")
		}
	})
}

func TestClientThatDoesNotReadIsDropped(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipes) {
		c := p.dial(t) // and never reads: a pipe holds nothing, so the first write is stuck
		time.Sleep(writeTime + 2*sweepEvery)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.sockets) != 0 {
			t.Error("it is still connected")
		}
		c.conn.Close()
	})
}

func TestActiveClientIsNotPinged(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipes) {
		c := p.dial(t)
		c.established()
		for range 20 {
			time.Sleep(pingAfter - sweepEvery)
			c.write(0x81, `{"event":"pusher:ping"}`)
			if head, payload := c.frame(); head != 0x81 || !bytes.Contains(payload, []byte("pusher:pong")) {
				t.Fatalf("got %x %s, want pusher:pong", head, payload)
			}
		}
		c.conn.Close()
	})
}

func TestFullServer(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipes) {
		first := p.dial(t)
		first.established()
		others := make([]*socket, maxSockets-1)
		s.mu.Lock()
		for i := range others {
			others[i] = &socket{}
			s.sockets[others[i]] = struct{}{}
		}
		s.mu.Unlock()
		c := p.dial(t)
		if _, payload := c.frame(); !strings.Contains(string(payload), `"code":4100`) {
			t.Errorf("the first message of one too many: %s", payload)
		}
		if head, payload := c.frame(); head != 0x88 || binary.BigEndian.Uint16(payload) != codeOverCapacity {
			t.Errorf("then %x %q, want a close with %d", head, payload, codeOverCapacity)
		}
		c.conn.Close()
		first.conn.Close()
		s.mu.Lock()
		for _, k := range others {
			delete(s.sockets, k)
		}
		s.mu.Unlock()
	})
}

// A client that never answers the close does not hold Close up.
func TestCloseDoesNotWaitForTheDeaf(t *testing.T) {
	timed(t, func(t *testing.T, s *Server, p pipes) {
		c := p.dial(t)
		c.established()
		start := time.Now()
		s.Close()
		if took := time.Since(start); took > closeTime {
			t.Errorf("Close took %v", took)
		}
		c.conn.Close()
	})
}
