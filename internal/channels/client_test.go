package channels

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

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

// newRawClient sends the handshake and reads the response, which must have status 101.
func newRawClient(t testing.TB, conn net.Conn, path string) *rawClient {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	c := &rawClient{t, conn, bufio.NewReader(conn)}
	io.WriteString(conn, handshakeOf(path))
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v %v", resp, err)
	}
	return c
}

// write sends a masked frame whose mask is zero.
func (c *rawClient) write(head byte, payload string) {
	c.t.Helper()
	frame := []byte{head, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		frame = binary.BigEndian.AppendUint16([]byte{head, 0x80 | 126}, uint16(len(payload)))
	}
	if _, err := c.conn.Write(append(append(frame, 0, 0, 0, 0), payload...)); err != nil {
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

// established waits for the first message, which must be pusher:connection_established.
func (c *rawClient) established() *rawClient {
	c.t.Helper()
	if _, payload := c.frame(); !bytes.Contains(payload, []byte("connection_established")) {
		c.t.Fatalf("the first message is %s, want connection_established", payload)
	}
	return c
}

// subscribe subscribes to a channel and waits until that has succeeded.
func (c *rawClient) subscribe(channel string) *rawClient {
	c.t.Helper()
	c.write(0x81, fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel))
	if _, payload := c.frame(); !strings.Contains(string(payload), "subscription_succeeded") {
		c.t.Fatalf("the response to a subscription is %s, want subscription_succeeded", payload)
	}
	return c
}

// wantClosed reads up to the close frame, echoes it as browsers do unless the client has sent one before, and checks that
// nothing follows but the end of the TCP connection.
func (c *rawClient) wantClosed(code ws.StatusCode) {
	c.t.Helper()
	for {
		head, payload := c.frame()
		if head == 0 {
			c.t.Fatalf("the connection ended without a close frame, want code %d", code)
		}
		if head != closeHead {
			continue
		}
		if got := ws.StatusCode(binary.BigEndian.Uint16(payload)); got != code {
			c.t.Errorf("closed with %d %q, want %d", got, payload[2:], code)
		}
		if code != ws.StatusNormalClosure {
			c.conn.Write(append([]byte{closeHead, 0x82, 0, 0, 0, 0}, payload[:2]...))
		}
		rest, err := io.ReadAll(c.r)
		if len(rest) > 0 || err != nil {
			c.t.Errorf("after the close frame: received %x, error %v; want EOF", rest, err)
		}
		return
	}
}

// dialPipe connects in memory, so that synctest's fake clock applies.
func dialPipe(t testing.TB, listener pipe.Listener) *rawClient {
	t.Helper()
	return newRawClient(t, listener.Dial(), path)
}
