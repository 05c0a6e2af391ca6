package channels

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// connection is a client's WebSocket. All frames to the client go through its queue. After a close
// frame, the queue accepts no more frames.
type connection struct {
	net.Conn
	server        *Server
	client        netip.Prefix // see Options.ClientAddress
	id            string
	subscriptions []string     // channel names; guarded by server.mu
	lastActivity  atomic.Int64 // nanoseconds since server.started
	received      atomic.Int64 // bytes received since the last sweep
	messages      atomic.Int64 // messages received since the last sweep

	mu           sync.Mutex     // guards the fields below, except writer; locked after server.mu
	queue        net.Buffers    // frames to write, oldest first
	queuedFrames int            // frames in queue and the current write; inaccurate while closing
	queuedBytes  int            // total size of those frames
	unanswered   int64          // messages received since the queue was last empty
	writing      bool           // whether a goroutine is running write
	writingSince time.Duration  // when the current write began, as the time since server.started
	writer       sync.WaitGroup // waits until that goroutine ends
	closing      bool           // a close frame was queued, or a write failed; no frame may follow
}

// send queues a frame and returns without waiting. If the queue is full, it drops the connection
// instead. If the connection is closing, it discards the frame.
func (c *connection) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
	case c.queuedFrames >= maxQueuedFrames || c.queuedBytes+len(frame) > maxQueuedBytes:
		c.drop()
	default:
		c.enqueue(frame)
	}
}

// enqueue queues a frame and starts write, unless it is running. The caller holds c.mu.
func (c *connection) enqueue(frame []byte) {
	c.queue = append(c.queue, frame)
	c.queuedFrames++
	c.queuedBytes += len(frame)
	c.server.queued.Add(1)
	if !c.writing {
		c.writing, c.writingSince = true, time.Since(c.server.started)
		c.writer.Add(1)
		go c.write()
	}
}

// write writes the queued frames in batches, until the queue is empty.
func (c *connection) write() {
	defer c.writer.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		// A batch has at least one frame, and as many as fit into maxBatchBytes.
		count, size := 1, len(c.queue[0])
		for count < len(c.queue) && size+len(c.queue[count]) <= maxBatchBytes {
			size += len(c.queue[count])
			count++
		}
		frames := c.queue[:count]
		c.queue = c.queue[count:]
		c.writingSince = time.Since(c.server.started)
		c.mu.Unlock()
		var err error
		if count == 1 { // the usual case; write costs less than writev
			_, err = c.Conn.Write(frames[0])
		} else {
			_, err = frames.WriteTo(c.Conn)
		}
		c.mu.Lock()
		c.queuedFrames -= count
		c.queuedBytes -= size
		c.server.queued.Add(-int64(count))
		if err != nil {
			c.closing = true
			c.Conn.Close() // makes read and all further writes fail
		}
	}
	c.writing, c.unanswered = false, 0
	c.queue = nil // so that an idle connection uses no memory for frames
}

// closeWith queues a close frame and logs it at the given level, unless the connection is already
// closing. The code tells pusher-js whether and when to reconnect. The reason must be ASCII, since
// it may be truncated. The client has closeTimeout to close its side.
func (c *connection) closeWith(level slog.Level, code ws.StatusCode, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enqueueClose(level, code, reason)
}

// enqueueClose is like closeWith, but the caller holds c.mu.
func (c *connection) enqueueClose(level slog.Level, code ws.StatusCode, reason string) {
	if c.closing {
		return
	}
	c.closing = true
	body := ws.NewCloseFrameBody(code, reason)
	c.enqueue(ws.MustCompileFrame(ws.NewCloseFrame(body[:min(len(body), ws.MaxControlFramePayloadSize)])))
	c.SetDeadline(time.Now().Add(closeTimeout))
	// The code is in the message, so that a log that limits repeats counts each code separately.
	c.server.log.Log(context.Background(), level, fmt.Sprintf("closed a WebSocket with code %d", code), "connection", c.id, "reason", reason)
}

// drop closes the connection of a client that reads too slowly. It discards the queued frames, so
// that the client receives the close frame next. The caller holds c.mu.
func (c *connection) drop() {
	if c.closing {
		return
	}
	c.server.queued.Add(-int64(len(c.queue)))
	c.queue = nil
	c.enqueueClose(slog.LevelInfo, codeOverCapacity, "This client reads too slowly and may have lost events. Reconnect.")
}

// check resets the counts of received messages and bytes. It drops the connection if a write takes
// too long, closes it if the client has been inactive for dropAfter, and sends a ping if the client
// has been inactive for pingAfter. The argument now is the time since server.started.
func (c *connection) check(now time.Duration) {
	c.messages.Store(0)
	c.received.Store(0)
	c.mu.Lock()
	if c.writing && now-c.writingSince > writeTimeout {
		c.drop()
	}
	c.mu.Unlock()
	switch idle := now - time.Duration(c.lastActivity.Load()); {
	case idle > dropAfter:
		c.closeWith(slog.LevelInfo, codeNoPong, "No pong was received in time. Reconnect at once.")
	case idle > pingAfter:
		c.send(pingFrame)
	}
}

// Read reads from the client, records its activity and counts the bytes. The limit on bytes also
// applies to frames that are not messages, such as empty fragments.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.lastActivity.Store(int64(time.Since(c.server.started)))
	c.accept(0, int64(n))
	return n, err
}

var errClosed = errors.New("the client has sent a close frame")

// read handles the client's messages until a close frame or an error ends the WebSocket. Before it
// closes the connection, it discards any further data from the client: unread data would make the
// operating system reset the connection, and the client could lose the close frame.
func (c *connection) read() {
	defer c.server.remove(c)
	var linger time.Duration
	if err := c.readMessages(); err != errClosed {
		c.closeWith(closeCode(err))
		// Browsers report a clean close only if they can send a close frame in time.
		linger = lingerTime
	}
	closeWrite := time.AfterFunc(linger, func() {
		c.writer.Wait()
		if tcp, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			tcp.CloseWrite()
		}
	})
	io.Copy(io.Discard, c.Conn) // until the client closes its side, or closeTimeout has passed
	closeWrite.Stop()
	c.writer.Wait()
	c.Conn.Close()
	c.server.log.Debug("disconnected", "connection", c.id)
}

// readMessages handles frames until an error occurs. After a close frame, it returns errClosed.
func (c *connection) readMessages() error {
	frames := &wsutil.Reader{
		Source:         bufio.NewReaderSize(c, 512), // small, because each connection has one
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
			c.closeWith(slog.LevelInfo, ws.StatusUnsupportedData, "Binary messages are not supported. Send text messages.")
			err = frames.Discard()
		case !c.accept(1, 0):
			err = frames.Discard() // without storing the message
		default:
			var text []byte
			if text, err = io.ReadAll(frames); err == nil {
				// Use another goroutine, because decoding JSON needs a stack of 8 KB,
				// which this goroutine might keep as long as the connection is open.
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

// control handles a control frame (RFC 6455, section 5.5). It responds to a ping with a pong, and
// to a close frame with a close frame. After a close frame, it returns errClosed.
func (c *connection) control(header ws.Header, r io.Reader) error {
	payload := make([]byte, header.Length) // at most 125 bytes
	if _, err := io.ReadFull(r, payload); err != nil {
		return err
	}
	if header.OpCode != ws.OpClose {
		if c.accept(1, 0) && header.OpCode == ws.OpPing {
			c.send(ws.MustCompileFrame(ws.NewPongFrame(payload)))
		}
		return nil
	}
	code, reason := ws.ParseCloseFrameData(payload)
	if len(payload) == 0 {
		code = ws.StatusNormalClosure
	}
	if err := ws.CheckCloseFrameData(code, reason); err != nil {
		return err
	}
	c.closeWith(slog.LevelDebug, code, "") // at debug, so that clients can't fill the log
	return errClosed
}

// closeCode returns the log level, the close code and the reason for an error from readMessages.
func closeCode(err error) (slog.Level, ws.StatusCode, string) {
	switch {
	case errors.Is(err, wsutil.ErrMessageTooLarge), errors.Is(err, ws.ErrHeaderLengthMSB):
		return slog.LevelInfo, ws.StatusMessageTooBig, fmt.Sprintf("The message is over %d bytes. Send smaller messages.", maxMessage)
	case errors.Is(err, wsutil.ErrInvalidUTF8):
		return slog.LevelInfo, ws.StatusInvalidFramePayloadData, "The message is not UTF-8. Send UTF-8 only."
	case errors.As(err, new(ws.ProtocolError)):
		return slog.LevelInfo, ws.StatusProtocolError, err.Error()
	default: // the network failed, or the client ended the connection without a close frame
		return slog.LevelDebug, ws.StatusNormalClosure, ""
	}
}

// accept counts messages and bytes. It closes the connection if a count exceeds its limit, or if
// the client reads too few responses. It returns false if the message must be ignored.
func (c *connection) accept(messages, bytes int64) bool {
	if c.messages.Add(messages) > maxMessages || c.received.Add(bytes) > maxReceivedBytes {
		c.closeWith(slog.LevelInfo, codeOverCapacity, "Too many messages or too much data. Reconnect later, and send less.")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		if c.unanswered += messages; c.unanswered > maxUnanswered {
			c.drop()
		}
	}
	return !c.closing
}
