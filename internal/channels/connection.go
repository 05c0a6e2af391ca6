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
// the queue is empty. After a close frame, the queue accepts no more frames.
type connection struct {
	net.Conn
	server        *Server
	id            string
	received      *rate.Limiter // of bytes
	subscriptions []string      // channel names; guarded by server.mu

	mu           sync.Mutex  // guards the fields below; locked after server.mu
	queue        net.Buffers // frames to write, oldest first
	queuedFrames int         // frames in queue, and those being written
	queuedBytes  int         // total size of those frames
	writtenCount int         // frames that have been written
	writing      bool        // whether a goroutine is running write
	written      sync.Cond   // signals that frames have been written, or that write has ended
	closing      bool        // a close frame was queued, or the connection failed; no frame may follow
}

// send queues a frame and returns without waiting. It disconnects a client that reads too slowly; the client then
// reconnects. If the connection is closing, send discards the frame. The frame must not be changed afterwards.
func (c *connection) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
	case c.queuedFrames == maxQueuedFrames || c.queuedBytes+len(frame) > maxQueuedBytes:
		c.server.log.Debug("disconnecting a client that reads too slowly", "connection", c.id)
		c.fail()
	default:
		c.enqueue(frame)
	}
}

// enqueue queues a frame and starts write, unless it is running. The caller holds c.mu.
func (c *connection) enqueue(frame []byte) {
	c.queue = append(c.queue, frame)
	c.queuedFrames++
	c.queuedBytes += len(frame)
	if !c.writing {
		c.writing = true
		go c.write()
	}
}

// write writes the queued frames until the queue is empty.
func (c *connection) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		frames, count := c.queue, len(c.queue)
		c.queue = nil // so that an idle connection uses no memory for frames
		c.mu.Unlock()
		n, err := frames.WriteTo(c.Conn)
		c.mu.Lock()
		c.queuedFrames -= count
		c.queuedBytes -= int(n)
		c.writtenCount += count
		c.written.Broadcast()
		if err != nil {
			c.fail()
		}
	}
	c.writing = false
	c.written.Broadcast()
}

// flush waits until the frames that are queued now are written, or the client is disconnected because it takes longer
// than writeTimeout to receive them.
func (c *connection) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writing {
		return
	}
	if !c.closing { // otherwise, the deadline is set
		c.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	for last := c.writtenCount + c.queuedFrames; c.writing && c.writtenCount < last; {
		c.written.Wait()
	}
	if !c.closing {
		c.SetWriteDeadline(time.Time{})
	}
}

// fail disconnects the client without a close frame. The caller holds c.mu.
func (c *connection) fail() {
	c.closing, c.queue = true, nil
	c.Conn.Close() // makes all reads and writes fail
}

// close queues a close frame, unless the connection is already closing. The code tells pusher-js whether and when to
// reconnect. The reason must be ASCII, since it may be truncated. The client has closeTimeout to close its side.
func (c *connection) close(code ws.StatusCode, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.closing = true
	c.SetDeadline(time.Now().Add(closeTimeout))
	body := ws.NewCloseFrameBody(code, reason)
	c.enqueue(ws.MustCompileFrame(ws.NewCloseFrame(body[:min(len(body), ws.MaxControlFramePayloadSize)])))
	c.server.log.Debug("closing a WebSocket", "connection", c.id, "code", code, "reason", reason)
}

var (
	errClosed  = errors.New("the client has sent a close frame")
	errTooMuch = errors.New("the client has sent too much data")
	errBinary  = errors.New("the client has sent a binary message")
)

// Read reads from the client. If the client sends nothing for PingAfter, Read sends a ping, and fails after another
// PongTimeout. It also fails if the client sends too much.
func (c *connection) Read(b []byte) (n int, err error) {
	c.extendDeadline(c.server.PingAfter)
	n, err = c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.send(pingFrame)
		c.extendDeadline(c.server.PongTimeout)
		n, err = c.Conn.Read(b)
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
		c.SetReadDeadline(time.Now().Add(d))
	}
}

// serve handles the client's messages, which begin with those in early, until a close frame or an error ends the
// WebSocket. From a refused client, it handles none. Then it discards what the client still sends: unread data would
// make the operating system reset the connection, and the client could lose the close frame. Browsers report a clean
// close only if they can send a close frame before the server ends the stream.
func (c *connection) serve(early []byte, refused bool) {
	defer c.server.remove(c)
	defer c.Conn.Close()
	if !refused {
		err := c.readMessages(early)
		if err == errClosed {
			c.flush()
			return
		}
		c.close(closeCode(err))
	}
	c.flush()
	defer time.AfterFunc(lingerTime, func() {
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			tcp.CloseWrite()
		}
	}).Stop()
	io.Copy(io.Discard, c.Conn) // until the client closes its side, or closeTimeout has passed
}

// readMessages handles frames until an error occurs. After a close frame, it returns errClosed.
func (c *connection) readMessages(early []byte) error {
	frames := &wsutil.Reader{
		Source:         bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), c), 512), // each connection has one
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
				c.flush() // a client that does not read the responses can't send more messages
			}
		}
		if err != nil {
			return err
		}
	}
}

// control handles a control frame (RFC 6455, section 5.5). It responds to a ping with a pong, and to a close frame with
// a close frame. After a close frame, it returns errClosed.
func (c *connection) control(header ws.Header, r io.Reader) error {
	payload := make([]byte, header.Length) // at most 125 bytes
	if _, err := io.ReadFull(r, payload); err != nil {
		return err
	}
	switch header.OpCode {
	case ws.OpPing:
		c.send(ws.MustCompileFrame(ws.NewPongFrame(payload)))
		c.flush()
	case ws.OpClose:
		code, reason := ws.ParseCloseFrameData(payload)
		if len(payload) == 0 {
			code = ws.StatusNormalClosure
		}
		if err := ws.CheckCloseFrameData(code, reason); err != nil {
			return err
		}
		c.close(code, "")
		return errClosed
	}
	return nil
}

// closeCode returns the close code and the reason for an error from readMessages.
func closeCode(err error) (ws.StatusCode, string) {
	switch {
	case err == errTooMuch:
		return codeOverCapacity, "Too many messages or too much data. Reconnect later, and send less."
	case err == errBinary:
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
