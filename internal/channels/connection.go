package channels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
)

// connection is a client's WebSocket. It is also the net.Conn that gws reads from
// and writes to, so that the close frames of gws go through the queue as well:
// exactly one is sent, after everything else.
type connection struct {
	net.Conn
	server        *Server
	client        netip.Prefix // see Options.ClientAddress
	id            string
	subscriptions []string     // channels; guarded by server.mu
	lastActivity  atomic.Int64 // nanoseconds since server.started
	received      atomic.Int64 // bytes since the last sweep
	messages      atomic.Int64 // since the last sweep
	clientClosed  bool         // the client has sent a close frame; used by read alone

	mu           sync.Mutex
	queue        net.Buffers   // whole frames, in order
	queuedFrames int           // in queue and in the write in progress
	queuedBytes  int           // likewise
	writing      bool          // a goroutine is in write
	writingSince time.Duration // start of its current batch, since server.started
	writer       sync.WaitGroup
	closing      bool      // a close frame is queued: nothing may follow
	closeBy      time.Time // deadline for the client to end the connection
}

// send queues a frame and returns at once. If the queue is full, it drops the connection.
func (c *connection) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	if c.queuedFrames >= maxQueuedFrames || c.queuedBytes+len(frame) > maxQueuedBytes {
		c.drop()
		return
	}
	c.enqueue(frame)
}

// enqueue starts a write if none is in progress. The caller holds c.mu.
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

// write writes batches of frames until the queue is empty.
func (c *connection) write() {
	defer c.writer.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.writing = false }()
	for len(c.queue) > 0 {
		frames, size := c.nextBatch()
		count := len(frames)
		c.writingSince = time.Since(c.server.started)
		c.mu.Unlock()
		var err error
		if count == 1 { // the usual case, and write is cheaper than writev
			_, err = c.Conn.Write(frames[0])
		} else {
			_, err = frames.WriteTo(c.Conn)
		}
		c.mu.Lock()
		c.dequeued(count, size)
		if err != nil {
			c.closing = true
			c.discard()
			c.Conn.Close() // which ends the reading
			return
		}
	}
	c.queue = nil // an idle connection holds no memory for frames
}

// nextBatch takes frames off the queue: as many as fit maxBatchBytes, at least one.
func (c *connection) nextBatch() (frames net.Buffers, size int) {
	n := 0
	for n < len(c.queue) && (n == 0 || size+len(c.queue[n]) <= maxBatchBytes) {
		size += len(c.queue[n])
		n++
	}
	frames, c.queue = c.queue[:n:n], c.queue[n:]
	return frames, size
}

func (c *connection) dequeued(frames, size int) {
	c.queuedFrames -= frames
	c.queuedBytes -= size
	c.server.queued.Add(-int64(frames))
}

// discard empties the queue. The caller holds c.mu.
func (c *connection) discard() {
	size := 0
	for _, frame := range c.queue {
		size += len(frame)
	}
	c.dequeued(len(c.queue), size)
	c.queue = nil
}

// closeWith sends what is queued and then a close frame. The connection ends when the
// client has ended its side, or after closeTimeout. The code tells pusher-js whether
// and when to reconnect.
func (c *connection) closeWith(code uint16, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	level := slog.LevelInfo
	if code == codeReconnect {
		level = slog.LevelDebug // the server stops, and closes them all
	}
	c.enqueueClose(closeFrame(code, reason), level)
}

// enqueueClose queues a close frame, unless one was queued already, and logs its code and
// reason. The caller holds c.mu.
func (c *connection) enqueueClose(frame []byte, level slog.Level) {
	if c.closing {
		return
	}
	c.closing, c.closeBy = true, time.Now().Add(closeTimeout)
	c.enqueue(frame)
	c.SetDeadline(c.closeBy)
	code, reason := parseClose(frame)
	// The message contains the code, because a rate-limited log counts by message.
	c.server.log.Log(context.Background(), level, fmt.Sprintf("closed a WebSocket with code %d", code), "connection", c.id, "reason", reason)
}

// drop closes the connection of a client that reads too slowly. It discards what is
// queued, so that the client can still receive the reason. The caller holds c.mu.
func (c *connection) drop() {
	if c.closing {
		return
	}
	c.discard()
	c.enqueueClose(closeFrame(codeOverCapacity, "This connection reads too slowly and has lost events. Reconnect."), slog.LevelInfo)
}

// check drops the connection if a write is stuck, closes it if the client has not responded
// to a ping, and pings a client that has been idle for a while.
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
		c.closeWith(codeNoPong, "No pong came in time. Reconnect at once.")
	case idle > pingAfter:
		c.send(pingFrame)
	}
}

// Read reads for gws. It limits the bytes received, which also limits frames that are not
// messages, such as empty fragments.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.lastActivity.Store(int64(time.Since(c.server.started)))
	if c.received.Add(int64(n)) > maxReceivedBytes {
		c.flooded()
	}
	return n, err
}

// Write writes for gws: the response to the handshake, and then close frames only.
func (c *connection) Write(b []byte) (int, error) {
	if b[0] != closeOpcode {
		return c.Conn.Write(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	level := slog.LevelInfo
	if code, _ := parseClose(b); code < codeProtocolError || code >= 3000 {
		level = slog.LevelDebug // the client closed, with any code that it likes
	}
	c.enqueueClose(slices.Clone(b), level) // gws reuses b
	return len(b), nil
}

// Close does nothing: gws calls it as soon as it has written a close frame, which may
// still be in the queue. read closes the connection.
func (c *connection) Close() error { return nil }

// read passes the client's messages to handle until a close frame or an error ends the
// WebSocket. It then discards what the client still sends before it closes the connection:
// unread data would cause a TCP reset, and the client could lose the close frame.
func (c *connection) read(ws *gws.Conn) {
	defer c.server.remove(c)
	if !c.readMessages(ws) {
		// gws has stopped reading, but browsers report a clean close only if the
		// connection stays open until they have sent a close frame.
		c.discardUntil(time.Now().Add(lingerTime))
	}
	c.writer.Wait()
	if tcp, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		tcp.CloseWrite()
	}
	c.discardUntil(time.Now().Add(closeTimeout))
	c.Conn.Close()
	c.server.log.Debug("disconnected", "connection", c.id)
}

// discardUntil reads until the client ends its side, or a time that is at most closeBy.
func (c *connection) discardUntil(t time.Time) {
	c.mu.Lock()
	if t.After(c.closeBy) {
		t = c.closeBy
	}
	c.mu.Unlock()
	c.SetReadDeadline(t)
	io.Copy(io.Discard, c.Conn)
}

// readMessages reports whether the client has sent a close frame.
func (c *connection) readMessages(ws *gws.Conn) bool {
	defer func() {
		if recover() != nil { // gws panics at a frame that claims 2⁶³ bytes or more
			c.closeWith(codeTooLarge, "The message is too large.")
		}
	}()
	ws.ReadLoop()
	return c.clientClosed
}

// handler handles what gws reads.
type handler struct{ gws.BuiltinEventHandler }

func (handler) OnPing(ws *gws.Conn, payload []byte) {
	if c := ws.NetConn().(*connection); c.accept() {
		c.send(frame(gws.OpcodePong, payload))
	}
}

func (handler) OnPong(ws *gws.Conn, _ []byte) { ws.NetConn().(*connection).accept() }

func (handler) OnClose(ws *gws.Conn, err error) {
	ws.NetConn().(*connection).clientClosed = errors.As(err, new(*gws.CloseError))
}

func (handler) OnMessage(ws *gws.Conn, m *gws.Message) {
	defer m.Close()
	c := ws.NetConn().(*connection)
	if !c.accept() {
		return
	}
	// In another goroutine: decoding JSON needs a stack of 8 KB, which the reading
	// goroutine would keep as long as the connection lasts.
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		defer func() {
			if v := recover(); v != nil {
				c.server.log.Error("panic while handling a message", "panic", v, "stack", string(debug.Stack()))
				c.closeWith(codeInternalError, "The server failed to handle this message.")
			}
		}()
		c.handle(m)
	}()
	<-handled
}

// accept counts a message against the rate limit. It returns false if the message
// must be ignored because the connection is closing.
func (c *connection) accept() bool {
	if c.messages.Add(1) > maxMessages {
		c.flooded()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closing
}

func (c *connection) flooded() {
	c.closeWith(codeOverCapacity, "Too many messages. Reconnect later, and send fewer.")
}

// incoming is a message from a client.
type incoming struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

func (c *connection) handle(m *gws.Message) {
	if m.Opcode != gws.OpcodeText {
		c.closeWith(codeUnsupported, "Only text messages are supported.")
		return
	}
	var in incoming
	if err := json.Unmarshal(m.Bytes(), &in); err != nil || in.Event == "" {
		c.sendError(0, `A message must be a JSON object such as {"event":"pusher:subscribe","data":{"channel":"channel1"}}.`)
		return
	}
	switch in.Event {
	case "pusher:ping":
		c.send(pongMessage)
	case "pusher:pong": // any message counts as activity
	case "pusher:subscribe":
		if name, ok := c.channelName(in); !ok {
			return
		} else if strings.HasPrefix(name, "private-") || strings.HasPrefix(name, "presence-") {
			c.sendError(codeUnauthorized, "This server has public channels only: for private and presence channels, use Pusher or another Channels server.")
		} else if problem := c.server.subscribe(c, name); problem != "" {
			c.sendError(0, problem)
		}
	case "pusher:unsubscribe":
		if name, ok := c.channelName(in); ok {
			c.server.unsubscribe(c, name)
		}
	default:
		if strings.HasPrefix(in.Event, "client-") {
			c.sendError(0, "Client events need a private or presence channel, and this server has public channels only.")
		} else {
			c.sendError(0, fmt.Sprintf("Unknown event %.40q.", in.Event))
		}
	}
}

// channelName returns the channel in a message's data. If there is no valid one, it
// sends the client an error and returns false.
func (c *connection) channelName(in incoming) (name string, ok bool) {
	data := []byte(in.Data)
	var inner string
	if json.Unmarshal(data, &inner) == nil { // some libraries encode data twice
		data = []byte(inner)
	}
	var subscription struct {
		Channel string `json:"channel"`
	}
	if err := json.Unmarshal(data, &subscription); err != nil || !validChannel(subscription.Channel) {
		c.sendError(0, invalidChannel(subscription.Channel))
		return "", false
	}
	return subscription.Channel, true
}

// sendError sends pusher:error, with a null code if code is 0.
func (c *connection) sendError(code int, text string) {
	data := struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
	}{Message: text}
	if code != 0 {
		data.Code = &code
	}
	encoded, _ := json.Marshal(data) // two plain fields can't fail
	c.send(jsonFrame(outgoing{Event: "pusher:error", Data: encoded}))
}
