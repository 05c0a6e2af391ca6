package channels

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pusher-sample/internal/pushertest/pipe"

	"github.com/gobwas/ws"
)

const closeHead = 0x88 // the first byte of a close frame

// rawClient is a client that writes its own frames, including invalid ones.
type rawClient struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// handshakeOf returns the handshake request of a WebSocket client for path.
func handshakeOf(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

// newRawClient sends the handshake, followed by early frames, and reads the response, which must have status 101.
func newRawClient(t testing.TB, conn net.Conn, path string, early ...string) *rawClient {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{t, conn, bufio.NewReader(conn)}
	io.WriteString(conn, handshakeOf(path)+strings.Join(early, ""))
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v %v", resp, err)
	}
	return c
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
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(timeout))
	return conn
}

// dialPipe connects in memory, so that synctest's fake clock applies.
func dialPipe(t testing.TB, listener pipe.Listener) *rawClient {
	t.Helper()
	return newRawClient(t, listener.Dial(), path)
}

// write sends a masked frame, whose mask is zero, with a payload of at most 125 bytes.
func (c *rawClient) write(head byte, payload string) {
	c.t.Helper()
	if _, err := c.conn.Write(append([]byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)); err != nil {
		c.t.Fatal(err)
	}
}

// frame reads a frame of less than 64 KB; head 0 means that the connection has ended.
func (c *rawClient) frame() (head byte, payload []byte) {
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

// wantMessage reads a frame, which must contain text.
func (c *rawClient) wantMessage(text string) *rawClient {
	c.t.Helper()
	if _, payload := c.frame(); !bytes.Contains(payload, []byte(text)) {
		c.t.Fatalf("received %q, want %s", payload, text)
	}
	return c
}

// established waits until the connection is established.
func (c *rawClient) established() *rawClient { return c.wantMessage("connection_established") }

// subscribe subscribes to the channel a and waits until that has succeeded.
func (c *rawClient) subscribe() *rawClient {
	c.write(0x81, `{"event":"pusher:subscribe","data":{"channel":"a"}}`)
	return c.wantMessage("subscription_succeeded")
}

// wantClosed reads up to the close frame, echoes it as browsers do unless the client has sent one before, and checks
// that nothing follows but the end of the TCP connection.
func (c *rawClient) wantClosed(code ws.StatusCode) {
	c.t.Helper()
	head, payload := c.frame()
	for head != closeHead {
		if head == 0 {
			c.t.Fatalf("the connection ended without a close frame, want code %d", code)
		}
		head, payload = c.frame()
	}
	if got := ws.StatusCode(binary.BigEndian.Uint16(payload)); got != code {
		c.t.Errorf("closed with %d %q, want %d", got, payload[2:], code)
	}
	if code != ws.StatusNormalClosure {
		c.conn.Write(append([]byte{closeHead, 0x82, 0, 0, 0, 0}, payload[:2]...))
	}
	if rest, err := io.ReadAll(c.r); len(rest) > 0 || err != nil {
		c.t.Errorf("after the close frame: received %x, error %v; want EOF", rest, err)
	}
}
