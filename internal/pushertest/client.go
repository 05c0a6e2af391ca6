package pushertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"
)

// Client is a WebSocket client, created by Dial or Subscribe.
type Client struct {
	gws.BuiltinEventHandler
	*gws.Conn
	Messages chan string // received messages; closed with the connection
	Closed   chan int    // the close code, or 0 if the connection ended without one
}

// Dial connects to the Channels server at url, which begins with http, as a client of the app
// with this key.
func Dial(url, key string) (*Client, error) {
	c := &Client{Messages: make(chan string, 1000), Closed: make(chan int, 1)}
	conn, _, err := gws.NewClient(c, &gws.ClientOption{Addr: "ws" + strings.TrimPrefix(url, "http") + "/app/" + key + "?protocol=7"})
	if err != nil {
		return nil, err
	}
	c.Conn = conn
	go conn.ReadLoop()
	return c, nil
}

// Subscribe connects a client as Dial does, and subscribes to channel. The client is closed at
// the end of the test.
func Subscribe(t testing.TB, url, key, channel string) *Client {
	t.Helper()
	c, err := Dial(url, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.NetConn().Close() })
	c.WriteString(fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel))
	for _, want := range []string{"pusher:connection_established", "pusher_internal:subscription_succeeded"} {
		if m := c.Next(t); !strings.Contains(m, want) {
			t.Fatalf("received %s, want %s", m, want)
		}
	}
	return c
}

// Next waits for the next message.
func (c *Client) Next(t testing.TB) string {
	t.Helper()
	select {
	case m, ok := <-c.Messages:
		if !ok {
			t.Fatal("the connection was closed")
		}
		return m
	case <-time.After(Timeout):
		t.Fatal("timed out waiting for a message")
		return ""
	}
}

// OnMessage implements gws.Event.
func (c *Client) OnMessage(_ *gws.Conn, message *gws.Message) {
	c.Messages <- message.Data.String()
	message.Close()
}

// OnClose implements gws.Event.
func (c *Client) OnClose(_ *gws.Conn, err error) {
	code := 0
	if closed := new(gws.CloseError); errors.As(err, &closed) {
		code = int(closed.Code)
	}
	c.Closed <- code
	close(c.Messages)
}

// SockJS serves the part of the SockJS protocol that pusher-js uses if WebSockets are blocked:
// the server streams its messages, and the client sends each message in a request. SockJS
// connects each session to the Channels server at url, which begins with http.
func SockJS(t testing.TB, url string) http.Handler {
	var sessions sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("POST /pusher/app/{key}/{number}/{session}/xhr_streaming", func(w http.ResponseWriter, r *http.Request) {
		client, err := Dial(url, r.PathValue("key"))
		if err != nil {
			t.Error(err)
			return
		}
		defer client.NetConn().Close()
		sessions.Store(r.PathValue("session"), client)
		io.WriteString(w, strings.Repeat("h", 2048)+"\no\n")
		for {
			http.NewResponseController(w).Flush()
			select {
			case m, ok := <-client.Messages:
				if !ok {
					return
				}
				quoted, _ := json.Marshal([]string{m})
				fmt.Fprintf(w, "a%s\n", quoted)
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST /pusher/app/{key}/{number}/{session}/xhr_send", func(w http.ResponseWriter, r *http.Request) {
		var messages []string
		if err := json.NewDecoder(r.Body).Decode(&messages); err != nil {
			t.Error(err)
		}
		client, ok := sessions.Load(r.PathValue("session"))
		for _, m := range messages {
			if ok {
				client.(*Client).WriteString(m)
			}
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "*")
		if r.Method != "OPTIONS" {
			mux.ServeHTTP(w, r)
		}
	})
}
