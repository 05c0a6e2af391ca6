package channels

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"golang.org/x/time/rate"
)

// connection is a client's WebSocket. One goroutine reads from it. Another one writes the queued frames, and ends when
// the queue is empty.
type connection struct {
	conn          net.Conn
	server        *Server
	id            string
	received      *rate.Limiter  // of bytes
	subscriptions []string       // channel names; guarded by server.mu
	writes        sync.WaitGroup // counts goroutines that run write

	mu          sync.Mutex  // guards the fields below; locked after server.mu
	queue       net.Buffers // frames to write, oldest first
	queuedBytes int         // total size of those frames
	writing     bool        // whether a goroutine is running write
	closing     bool        // a close frame was queued, or the connection failed; no frame may follow
}

// send queues a frame without waiting, and reports whether it did so: after a close frame, the queue accepts no more
// frames. send disconnects a client that reads too slowly; the client then reconnects. The frame must not be changed
// afterwards.
func (c *connection) send(frame []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return false
	case len(c.queue) == maxQueuedFrames || c.queuedBytes+len(frame) > maxQueuedBytes:
		c.server.log.Debug("disconnecting a client that reads too slowly", "connection", c.id)
		c.fail()
		return false
	case isClose(frame):
		c.closing = true
		c.conn.SetDeadline(time.Now().Add(closeTimeout)) // for the write, and for the client to close its side
	}
	c.queue = append(c.queue, frame)
	c.queuedBytes += len(frame)
	if !c.writing {
		c.writing = true
		c.writes.Go(c.write)
	}
	return true
}

// isClose reports whether a frame is a close frame.
func isClose(frame []byte) bool { return ws.OpCode(frame[0]&0x0f) == ws.OpClose }

// write writes the queued frames until the queue is empty.
func (c *connection) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		frames := c.queue
		c.queue, c.queuedBytes = nil, 0 // so that an idle connection uses no memory for frames
		c.mu.Unlock()
		_, err := frames.WriteTo(c.conn)
		c.mu.Lock()
		if err != nil {
			c.fail()
		}
	}
	c.writing = false
}

// fail disconnects the client without a close frame. The caller holds c.mu.
func (c *connection) fail() {
	c.closing, c.queue = true, nil
	c.conn.Close() // makes all reads and writes fail
}

// close sends a close frame. The code tells pusher-js whether and when to reconnect. The reason must be ASCII, since it
// may be truncated. The client has closeTimeout to close its side.
func (c *connection) close(code ws.StatusCode, reason string) {
	body := ws.NewCloseFrameBody(code, reason)
	if c.send(ws.MustCompileFrame(ws.NewCloseFrame(body[:min(len(body), ws.MaxControlFramePayloadSize)]))) {
		c.server.log.Debug("closing a WebSocket", "connection", c.id, "code", code, "reason", reason)
	}
}

var (
	errTooMuch = errors.New("the client has sent too much data")
	errBinary  = errors.New("the client has sent a binary message")
)

// Read reads from the client. If the client sends nothing for PingAfter, Read sends a ping. It fails if nothing arrives
// within PongTimeout after the ping, or if the client sends too much.
func (c *connection) Read(b []byte) (n int, err error) {
	c.extendDeadline(c.server.PingAfter)
	n, err = c.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.send(pingFrame)
		c.extendDeadline(c.server.PongTimeout)
		n, err = c.conn.Read(b)
	}
	if !c.received.AllowN(time.Now(), n) {
		return 0, errTooMuch
	}
	return n, err
}

// extendDeadline gives the client d to send something, unless the connection is closing.
func (c *connection) extendDeadline(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.conn.SetReadDeadline(time.Now().Add(d))
	}
}

// serve handles the client's messages, beginning with those in early, until a close frame or an error ends the
// WebSocket. It handles none from a refused client. After an error or a refusal, it discards what the client still
// sends: unread data would make the operating system reset the connection, and the client could lose the close frame.
// Browsers report a clean close only if they can send a close frame before the server ends the stream.
func (c *connection) serve(early []byte, refused bool) {
	defer c.server.remove(c)
	defer c.conn.Close()
	if !refused {
		err := c.readMessages(early)
		if errors.As(err, new(wsutil.ClosedError)) {
			c.writes.Wait()
			return
		}
		c.close(closeCode(err))
	}
	c.writes.Wait()
	defer time.AfterFunc(lingerTime, func() {
		if tcp, ok := c.conn.(*net.TCPConn); ok {
			tcp.CloseWrite()
		}
	}).Stop()
	io.Copy(io.Discard, c.conn) // until the client closes its side, or closeTimeout has passed
}

// readMessages handles frames until an error occurs. After a close frame, it returns a [wsutil.ClosedError].
func (c *connection) readMessages(early []byte) error {
	frames := &wsutil.Reader{
		Source:         bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), c), 512), // small: one per connection
		State:          ws.StateServerSide,
		CheckUTF8:      true,
		MaxMessageSize: maxMessage,
		OnIntermediate: c.control, // for control frames between the fragments of a message
	}
	for {
		header, err := frames.NextFrame()
		switch {
		case err != nil:
		case header.OpCode.IsControl():
			err = c.control(header, frames)
		case header.OpCode != ws.OpText:
			err = errBinary
		default:
			var text []byte
			if text, err = io.ReadAll(frames); err == nil {
				// Use another goroutine, because decoding JSON needs a stack of 8 KB, which this goroutine might keep as
				// long as the connection is open.
				var handled sync.WaitGroup
				handled.Go(func() { c.handle(text) })
				handled.Wait()
			}
		}
		if err != nil {
			return err
		}
	}
}

// control handles a control frame. It responds to a ping with a pong, and to a close frame with a close frame, after
// which it returns a [wsutil.ClosedError].
func (c *connection) control(header ws.Header, payload io.Reader) error {
	var response bytes.Buffer // the handler writes some frames in parts
	err := wsutil.ControlFrameHandler(&response, ws.StateServerSide)(header, payload)
	if response.Len() > 0 {
		c.send(response.Bytes())
	}
	return err
}

// closeCode returns the close code and the reason for an error from readMessages.
func closeCode(err error) (ws.StatusCode, string) {
	switch {
	case errors.Is(err, errTooMuch):
		return codeOverCapacity, "Too many messages or too much data. Reconnect later, and send less."
	case errors.Is(err, errBinary):
		return ws.StatusUnsupportedData, "Binary messages are not supported. Send text messages."
	case errors.Is(err, os.ErrDeadlineExceeded):
		return codeNoPong, "No pong was received in time. Reconnect at once."
	case errors.Is(err, wsutil.ErrMessageTooLarge), errors.Is(err, ws.ErrHeaderLengthMSB):
		return ws.StatusMessageTooBig, fmt.Sprintf("The message is over %d bytes. Send smaller messages.", maxMessage)
	case errors.Is(err, wsutil.ErrInvalidUTF8):
		return ws.StatusInvalidFramePayloadData, "The message is not UTF-8. Send UTF-8 only."
	case errors.As(err, new(ws.ProtocolError)):
		return ws.StatusProtocolError, err.Error()
	default: // the network failed, or the client ended the connection without a close frame
		return ws.StatusNormalClosure, ""
	}
}
