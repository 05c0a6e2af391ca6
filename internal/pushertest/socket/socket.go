// Package socket provides a WebSocket client for tests. It uses a different library than the embedded server.
package socket

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const timeout = 20 * time.Second // for an expected message; a test that passes never waits that long

// Message is a message from a Channels server.
type Message struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

// Text returns Data, which is a JSON string in all events except pusher:error.
func (m Message) Text() string {
	var text string
	if json.Unmarshal(m.Data, &text) != nil {
		return string(m.Data)
	}
	return text
}

// Client is a WebSocket client of a Channels server.
type Client struct {
	*websocket.Conn
	ID       string       // the socket ID; see Subscribe
	Messages chan Message // received messages; closed with the connection
	t        testing.TB
	code     websocket.StatusCode
}

// Dial connects to the Channels server at url, which begins with http, as a client of the app with this key. It ends
// the connection at the end of the test.
func Dial(t testing.TB, url, key string) *Client {
	t.Helper()
	return DialFrom(t, url, "/app/"+key+"?protocol=7", "")
}

// DialFrom is like Dial, but with another path, and from a page of the given origin unless it is "".
func DialFrom(t testing.TB, url, path, origin string) *Client {
	t.Helper()
	options := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if origin != "" {
		options.HTTPHeader.Set("Origin", origin)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url+path, options)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	c := &Client{Conn: conn, t: t, Messages: make(chan Message, 10_000)}
	t.Cleanup(func() { conn.CloseNow() })
	go func() {
		defer close(c.Messages)
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				c.code = websocket.CloseStatus(err)
				return
			}
			var m Message
			if err := json.Unmarshal(text, &m); err != nil {
				t.Errorf("the server sent %q: %v", text, err)
			}
			c.Messages <- m
		}
	}()
	return c
}

// Subscribe connects as Dial does, and subscribes to channels.
func Subscribe(t testing.TB, url, key string, channels ...string) *Client {
	t.Helper()
	c := Dial(t, url, key)
	m := c.Next()
	_, err := fmt.Sscanf(m.Text(), `{"socket_id":%q,"activity_timeout":120}`, &c.ID)
	if err != nil || m.Event != "pusher:connection_established" {
		t.Fatalf("the first message is %+v, want connection_established", m)
	}
	for _, name := range channels {
		c.Send(fmt.Sprintf(`{"event":"pusher:subscribe","data":{"auth":"","channel":%q}}`, name))
		if m := c.Next(); m.Event != "pusher_internal:subscription_succeeded" || m.Channel != name || m.Text() != "{}" {
			t.Fatalf("the response to a subscription to %s is %+v, want subscription_succeeded", name, m)
		}
	}
	return c
}

// Send sends a text message.
func (c *Client) Send(text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		c.t.Error(err)
	}
}

// Next waits for the next message.
func (c *Client) Next() Message {
	c.t.Helper()
	m, ok := c.receive()
	if !ok {
		c.t.Fatalf("the connection was closed with code %d", c.code)
	}
	return m
}

// receive waits for the next message. It returns false if the connection has ended.
func (c *Client) receive() (Message, bool) {
	c.t.Helper()
	select {
	case m, ok := <-c.Messages:
		return m, ok
	case <-time.After(timeout):
		c.t.Fatal("timed out waiting for a message, or the end of the connection")
		return Message{}, false
	}
}

// WantEvent waits for the next message, which must be this event.
func (c *Client) WantEvent(channel, event, data string) {
	c.t.Helper()
	if m := c.Next(); m.Channel != channel || m.Event != event || m.Text() != data {
		c.t.Fatalf("got %s on %s with %s; want %s on %s with %s", m.Event, m.Channel, m.Data, event, channel, data)
	}
}

// WantNoMessage checks that the server has sent no message: it sends a ping, and the next message must be the pong.
func (c *Client) WantNoMessage() {
	c.t.Helper()
	c.Send(`{"event":"pusher:ping","data":{}}`)
	if m := c.Next(); m.Event != "pusher:pong" {
		c.t.Fatalf("received %+v, want only a pong", m)
	}
}

// CloseCode discards messages until the connection ends, and returns its close code, or -1 if there was none.
func (c *Client) CloseCode() int {
	c.t.Helper()
	for {
		if _, ok := c.receive(); !ok {
			return int(c.code)
		}
	}
}

// Closing returns a handler that accepts WebSockets, sends messages, and closes with a code.
func Closing(code int, messages ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return // the client has given up
		}
		for _, text := range messages {
			conn.Write(r.Context(), websocket.MessageText, []byte(text))
		}
		conn.Close(websocket.StatusCode(code), "no")
	})
}
