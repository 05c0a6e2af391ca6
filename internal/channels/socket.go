package channels

import (
	"encoding/json"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
)

// socket is one client's connection. It is read by one goroutine, written by
// another that lives only while something waits to be written.
type socket struct {
	gws.SessionStorage // nil and unused: it makes a socket the session of its gws.Conn
	server             *Server
	conn               *gws.Conn
	id                 string
	channels           []subscription // guarded by server.mu
	heard              atomic.Int64   // when the client was last heard, in Unix nanoseconds
	messages           atomic.Int32   // from the client since the last sweep

	mu           sync.Mutex
	waiting      net.Buffers // whole frames, in order
	bytes        int         // in waiting
	writing      bool
	writingSince time.Time // zero while no write is under way
	closing      bool      // nothing more is to be sent
}

// subscription is a place among a channel's subscribers.
type subscription struct {
	channel string
	place   int
}

// subscription is the index in k.channels of a channel, or -1. It is called with
// server.mu held.
func (k *socket) subscription(channel string) int {
	return slices.IndexFunc(k.channels, func(s subscription) bool { return s.channel == channel })
}

// send queues a frame and returns at once. A client that lets too much wait is
// dropped: it comes back by itself when it can keep up.
func (k *socket) send(frame []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return
	}
	if k.bytes+len(frame) > maxWaiting {
		k.drop("it does not keep up")
		return
	}
	k.enqueue(frame)
}

// enqueue is called with k.mu held.
func (k *socket) enqueue(frame []byte) {
	k.waiting = append(k.waiting, frame)
	k.bytes += len(frame)
	if !k.writing {
		k.writing = true
		go k.write()
	}
}

// write writes all that waits, as many frames at a time as there are. A frame
// is never cut by another writer's: one Write, or one writev, is one piece.
func (k *socket) write() {
	for {
		k.mu.Lock()
		frames := k.waiting
		k.waiting, k.bytes = nil, 0
		k.writing, k.writingSince = len(frames) > 0, time.Time{}
		if k.writing {
			k.writingSince = time.Now()
		}
		k.mu.Unlock()
		if len(frames) == 0 {
			return
		}
		var err error
		if len(frames) == 1 { // as it mostly is, and write is cheaper than writev
			_, err = k.conn.NetConn().Write(frames[0])
		} else {
			_, err = frames.WriteTo(k.conn.NetConn())
		}
		if err != nil {
			k.conn.NetConn().Close() // and so ends the reading
			return
		}
	}
}

// close sends what waits and then a close frame, and ends the connection when
// the client has answered, or after closeTime. The code tells pusher-js whether
// and when to come back.
func (k *socket) close(code uint16, reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return
	}
	k.enqueue(closeFrame(code, reason))
	k.closing = true
	k.conn.NetConn().SetDeadline(time.Now().Add(closeTime))
}

// drop ends the connection without a word, for a client that would not read it.
// It is called with k.mu held.
func (k *socket) drop(why string) {
	k.server.log.Debug("dropped", "socket", k.id, "because", why)
	k.closing = true
	k.waiting, k.bytes = nil, 0
	k.conn.NetConn().Close()
}

// check is the sweep's visit.
func (k *socket) check(now time.Time) {
	k.messages.Store(0)
	k.mu.Lock()
	if !k.closing && !k.writingSince.IsZero() && now.Sub(k.writingSince) > writeTime {
		k.drop("it does not read")
	}
	k.mu.Unlock()
	switch quiet := now.Sub(time.Unix(0, k.heard.Load())); {
	case quiet > dropAfter:
		k.close(codeNoPong, "No pong came in time. Reconnect at once.")
	case quiet > pingAfter:
		k.send(pingFrame)
	}
}

// read hands the client's messages to events until the connection ends.
func (k *socket) read() {
	defer k.server.reading.Done()
	defer k.server.remove(k)
	defer func() {
		k.mu.Lock()
		k.closing = true
		k.mu.Unlock()
		k.conn.NetConn().Close()
		k.server.log.Debug("disconnected", "socket", k.id)
	}()
	defer k.recover() // gws panics at a frame that claims 2⁶³ bytes or more
	k.conn.ReadLoop()
}

// recover, deferred, makes a panic the end of this connection, not of the server.
func (k *socket) recover() {
	if v := recover(); v != nil {
		k.server.log.Error("panic while reading a WebSocket", "panic", v, "stack", string(debug.Stack()))
		k.conn.NetConn().Close()
	}
}

// events is what gws calls as a socket's frames come in.
type events struct{ gws.BuiltinEventHandler }

func (events) OnPing(conn *gws.Conn, payload []byte) {
	k := conn.Session().(*socket)
	if k.hear() {
		k.send(frame(gws.OpcodePong, payload))
	}
}

func (events) OnPong(conn *gws.Conn, _ []byte) { conn.Session().(*socket).hear() }

func (events) OnMessage(conn *gws.Conn, m *gws.Message) {
	defer m.Close()
	if k := conn.Session().(*socket); k.hear() {
		// On a stack of its own: decoding JSON takes one of 8 KB, which the reading
		// goroutine would keep as long as the connection lasts.
		handled := make(chan struct{})
		go func() {
			defer close(handled)
			defer k.recover()
			k.handle(m)
		}()
		<-handled
	}
}

// hear notes that the client lives. It reports whether to listen to it: not
// once the connection is closing, which a flood of messages brings about.
func (k *socket) hear() bool {
	k.heard.Store(time.Now().UnixNano())
	if k.messages.Add(1) > maxMessageRate {
		k.close(codeTooMany, "Too many messages. Slow down.")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.closing
}

// incoming is a message from a client.
type incoming struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

func (k *socket) handle(m *gws.Message) {
	if m.Opcode != gws.OpcodeText {
		k.close(codeUnsupported, "Only text messages are understood.")
		return
	}
	var in incoming
	if err := json.Unmarshal(m.Bytes(), &in); err != nil || in.Event == "" {
		k.sendError(0, `A message must be a JSON object such as {"event":"pusher:subscribe","data":{"channel":"channel1"}}.`)
		return
	}
	switch in.Event {
	case "pusher:ping":
		k.send(pongMessage)
	case "pusher:pong": // having heard it is enough
	case "pusher:subscribe":
		if name, ok := k.channelIn(in); !ok {
			return
		} else if strings.HasPrefix(name, "private-") || strings.HasPrefix(name, "presence-") {
			k.sendError(codeUnauthorized, "Only public channels are served here: a private or presence channel needs Pusher or another Channels server.")
		} else if wrong := k.server.subscribe(k, name); wrong != "" {
			k.sendError(0, wrong)
		} else {
			k.server.log.Debug("subscribed", "socket", k.id, "channel", name)
		}
	case "pusher:unsubscribe":
		if name, ok := k.channelIn(in); ok {
			k.server.unsubscribe(k, name)
			k.server.log.Debug("unsubscribed", "socket", k.id, "channel", name)
		}
	default:
		if strings.HasPrefix(in.Event, "client-") {
			k.sendError(0, "Client events are for private and presence channels, and only public ones are served here.")
		} else {
			k.sendError(0, fmt.Sprintf("The event %.40q is not understood.", in.Event))
		}
	}
}

// channelIn gives the channel that a message names, or tells the client that it
// names none.
func (k *socket) channelIn(in incoming) (name string, ok bool) {
	data := []byte(in.Data)
	var inner string
	if json.Unmarshal(data, &inner) == nil { // some libraries encode data twice
		data = []byte(inner)
	}
	var given struct {
		Channel string `json:"channel"`
	}
	if err := json.Unmarshal(data, &given); err != nil || !validChannel(given.Channel) {
		k.sendError(0, fmt.Sprintf("Invalid channel name %.40q. Use 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", given.Channel, maxChannelName))
		return "", false
	}
	return given.Channel, true
}

// sendError sends pusher:error; code 0 stands for none.
func (k *socket) sendError(code int, text string) {
	data := struct {
		Code    *int   `json:"code"`
		Message string `json:"message"`
	}{Message: text}
	if code != 0 {
		data.Code = &code
	}
	encoded, _ := json.Marshal(data) // of two plain fields can't fail
	k.send(jsonFrame(outgoing{Event: "pusher:error", Data: encoded}))
}
