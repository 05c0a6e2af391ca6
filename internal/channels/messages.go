package channels

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/gobwas/ws"
)

// incoming is a message from a client.
type incoming struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// handle handles a text message. It responds to invalid and unknown messages with pusher:error.
func (c *connection) handle(text []byte) {
	var in incoming
	if err := json.Unmarshal(text, &in); err != nil || in.Event == "" {
		c.sendError(nil, `A message must be a JSON object such as `+
			`{"event":"pusher:subscribe","data":{"channel":"channel1"}}.`)
		return
	}
	switch {
	case in.Event == "pusher:ping":
		c.send(pongMessage)
	case in.Event == "pusher:pong": // Read has extended the deadline
	case in.Event == "pusher:subscribe", in.Event == "pusher:unsubscribe":
		c.handleSubscription(in)
	case strings.HasPrefix(in.Event, "client-"):
		c.sendError(nil, "This server does not support client events: trigger the event through the HTTP API.")
	default:
		c.sendError(nil, fmt.Sprintf("Unknown event %.40q. A client may send pusher:subscribe, pusher:unsubscribe, "+
			"pusher:ping and pusher:pong.", in.Event))
	}
}

// handleSubscription subscribes to the channel that a message names, or unsubscribes from it.
func (c *connection) handleSubscription(in incoming) {
	var inner string
	if json.Unmarshal(in.Data, &inner) == nil { // some libraries send JSON in a string
		in.Data = []byte(inner)
	}
	var subscription struct {
		Channel string `json:"channel"`
	}
	err := json.Unmarshal(in.Data, &subscription)
	switch name := subscription.Channel; {
	case err != nil || !validChannel(name):
		c.sendError(nil, invalidChannel(name))
	case in.Event == "pusher:unsubscribe":
		c.server.unsubscribe(c, name)
	case !IsPublic(name):
		c.sendError(codeUnauthorized, "This server has public channels only: for private and presence channels, use "+
			"Pusher or another Channels server.")
	default:
		c.server.subscribe(c, name)
	}
}

// sendError sends pusher:error. The code is a ws.StatusCode, or nil, which is encoded as null.
func (c *connection) sendError(code any, text string) {
	c.send(jsonFrame(outgoing{Event: "pusher:error", Data: map[string]any{"code": code, "message": text}}))
}

// outgoing is a message to a client. Data is a string, which usually contains JSON, except in
// pusher:error, where it is an object.
type outgoing struct {
	Event   string `json:"event"`
	Channel string `json:"channel,omitempty"`
	Data    any    `json:"data"`
}

var (
	pingFrame   = ws.MustCompileFrame(ws.NewPingFrame(nil))
	pongMessage = jsonFrame(outgoing{Event: "pusher:pong", Data: "{}"})
)

// jsonFrame returns a frame with m as JSON. Frames must not be changed: subscribers share them.
func jsonFrame(m outgoing) []byte {
	b, _ := json.Marshal(m) // never fails for strings and numbers
	return ws.MustCompileFrame(ws.NewTextFrame(b))
}
