package channels

import (
	"encoding/json"
	"fmt"

	"github.com/gobwas/ws"
)

// handle handles a text message. It responds to an invalid message with pusher:error.
func (c *connection) handle(text []byte) {
	var in struct {
		Event string          `json:"event"`
		Data  json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		c.sendError(nil, "A message must be a JSON object.")
		return
	}
	switch in.Event {
	case "pusher:ping":
		c.send(pongMessage)
	case "pusher:pong": // Read has extended the deadline
	case "pusher:subscribe", "pusher:unsubscribe":
		c.handleSubscription(in.Event, in.Data)
	default:
		c.sendError(nil, fmt.Sprintf("Unsupported event %.40q: a client may send pusher:subscribe, pusher:unsubscribe, "+
			"pusher:ping and pusher:pong. Trigger other events through the HTTP API.", in.Event))
	}
}

// handleSubscription subscribes to the channel in data, or unsubscribes from it.
func (c *connection) handleSubscription(event string, data []byte) {
	var inner string
	if json.Unmarshal(data, &inner) == nil { // some libraries send JSON in a string
		data = []byte(inner)
	}
	var subscription struct {
		Channel string `json:"channel"`
	}
	json.Unmarshal(data, &subscription) // if data is invalid, so is the channel's name, which is then empty
	channel := subscription.Channel
	problem := channelProblem(channel)
	switch {
	case problem != "":
		c.sendError(nil, problem)
	case event == "pusher:unsubscribe":
		c.server.unsubscribe(c, channel)
	case !IsPublic(channel):
		c.sendError(codeUnauthorized, "This server supports public channels only: for private and presence channels, use "+
			"Pusher or another Channels server.")
	default:
		c.server.subscribe(c, channel)
	}
}

// sendError sends pusher:error. The code is a ws.StatusCode, or nil, which is encoded as null.
func (c *connection) sendError(code any, text string) {
	c.send(jsonFrame(outgoing{Event: "pusher:error", Data: map[string]any{"code": code, "message": text}}))
}

// outgoing is a message to a client. Data is a string that usually contains JSON, but an object in pusher:error.
type outgoing struct {
	Event   string `json:"event"`
	Channel string `json:"channel,omitempty"`
	Data    any    `json:"data"`
}

var (
	pingFrame   = ws.MustCompileFrame(ws.NewPingFrame(nil))
	pongMessage = jsonFrame(outgoing{Event: "pusher:pong", Data: "{}"})
)

// jsonFrame returns a frame with m as JSON.
func jsonFrame(m outgoing) []byte {
	b, _ := json.Marshal(m) // never fails for strings and numbers
	return ws.MustCompileFrame(ws.NewTextFrame(b))
}
