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

// handle handles a message from the client.
func (c *connection) handle(text []byte) {
	var in incoming
	if err := json.Unmarshal(text, &in); err != nil || in.Event == "" {
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
func (c *connection) sendError(code ws.StatusCode, text string) {
	data := struct {
		Code    *ws.StatusCode `json:"code"`
		Message string         `json:"message"`
	}{Message: text}
	if code != 0 {
		data.Code = &code
	}
	encoded, _ := json.Marshal(data) // two plain fields can't fail
	c.send(jsonFrame(outgoing{Event: "pusher:error", Data: encoded}))
}

// outgoing is a message to a client. Data is a JSON text; in all events but
// pusher:error a string that holds JSON (see jsonString).
type outgoing struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel,omitempty"`
	Data    json.RawMessage `json:"data"`
}

var (
	pingFrame   = ws.MustCompileFrame(ws.NewPingFrame(nil))
	pongMessage = jsonFrame(outgoing{Event: "pusher:pong", Data: jsonString("{}")})
)

// jsonString returns s as a JSON string.
func jsonString(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string can't fail
	return b
}

// jsonFrame returns the frame of a message. All subscribers of a channel share it.
func jsonFrame(m outgoing) []byte {
	b, _ := json.Marshal(m) // Data is always valid JSON
	return ws.MustCompileFrame(ws.NewTextFrame(b))
}
