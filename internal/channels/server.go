// Package channels provides a Pusher Channels server that runs inside a Go program, so that an app can be developed and
// tested without a Pusher account. It serves one app's public channels, in memory. Clients such as pusher-js subscribe
// over WebSockets, with version 5, 6 or 7 of the Channels protocol. Libraries such as pusher-http-go trigger events
// over the HTTP API.
//
//	GET  /app/{key}               opens a WebSocket, on which the client subscribes
//	POST /apps/{id}/events        triggers one event on up to 100 channels
//	POST /apps/{id}/batch_events  triggers up to 10 events
//
// Not implemented: private, presence, encrypted and cache channels, client events, user authentication, webhooks, and
// API requests that query channels. Events are not stored: only current subscribers receive an event.
package channels

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/time/rate"
)

// The server's limits. Those marked "Pusher's" are documented at
// https://pusher.com/docs/channels/library_auth_reference/rest-api/.
const (
	maxConnections   = 10_000   // open WebSockets; more are closed with code 4100
	maxSubscriptions = 100      // channels per connection
	maxMessage       = 8 << 10  // bytes per message from a client; a subscription needs at most 300
	receiveRate      = 2 << 10  // bytes per second that a client may send
	receiveBurst     = 32 << 10 // bytes that a client may send at once: 100 subscriptions
	maxQueuedFrames  = 1024     // frames waiting for one client to read them; a channel's subscribers share its frames
	maxQueuedBytes   = 1 << 20  // bytes in those frames
	maxChannelName   = 164      // characters; Pusher's
	maxEventName     = 200      // characters; Pusher's
	maxEventData     = 10 << 10 // bytes, after JSON decoding; Pusher's
	maxEventChannels = 100      // channels per event; Pusher's
	maxBatch         = 10       // events per batch; Pusher's
	maxBody          = 1 << 20  // bytes; enough for a full batch, however its JSON is escaped

	maxClockSkew    = 600 * time.Second      // between auth_timestamp and the server's clock; Pusher's
	activityTimeout = 120                    // idle seconds after which clients send a ping
	handshakeTime   = 2 * time.Second        // time for a client to receive the response to its handshake
	closeTimeout    = 2 * time.Second        // time for the client to receive a close frame, and to close its side
	lingerTime      = 300 * time.Millisecond // time for a close frame of the client, after an error
)

// Close codes tell pusher-js what to do next. 4000-4099: don't reconnect. 4100-4199: reconnect after a second or more.
// 4200-4299: reconnect immediately.
// (https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/#error-codes)
const (
	codeUnknownKey         ws.StatusCode = 4001
	codeUnreadableProtocol ws.StatusCode = 4006
	codeUnknownProtocol    ws.StatusCode = 4007
	codeMissingProtocol    ws.StatusCode = 4008
	codeUnauthorized       ws.StatusCode = 4009
	codeOverCapacity       ws.StatusCode = 4100
	codeReconnect          ws.StatusCode = 4200
	codeNoPong             ws.StatusCode = 4201
)

// Server is an http.Handler that serves one app's channels. Its exported fields may be changed before it is used.
type Server struct {
	PingAfter   time.Duration // how long a client may be idle before the server sends a ping; default 25 s
	PongTimeout time.Duration // how long the client may then take to send something; default 35 s

	appID, key, secret string
	log                *slog.Logger
	mux                http.ServeMux
	open               sync.WaitGroup // counts connections

	mu          sync.Mutex // guards the fields below; held by publish to keep events in order
	closed      bool
	connections map[*connection]struct{}
	channels    map[string][]*connection // subscribers; slices are faster to iterate over than maps
}

// New returns a running server for the app with this ID, key (public) and secret (which signs the HTTP API's requests).
// Call Close to stop it. It logs at level debug only, because clients could otherwise flood the log.
func New(appID, key, secret string, log *slog.Logger) *Server {
	s := &Server{
		PingAfter:   25 * time.Second, // Heroku closes WebSockets that are idle for 55 s
		PongTimeout: 35 * time.Second,
		appID:       appID,
		key:         key,
		secret:      secret,
		log:         log,
		connections: make(map[*connection]struct{}),
		channels:    make(map[string][]*connection),
	}
	s.mux.HandleFunc("GET /app/{key}", s.serveWebSocket)
	s.mux.HandleFunc("POST /apps/{id}/events", s.serveEvents)
	s.mux.HandleFunc("POST /apps/{id}/batch_events", s.serveEvents)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close refuses new connections, asks every client to reconnect at once (close code 4200), and waits for all
// connections to end, which takes at most about 2 s. It may be called more than once.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.connections {
		c.close(codeReconnect, "This server is stopping. Reconnect at once.")
	}
	s.mu.Unlock()
	s.open.Wait()
}

// serveWebSocket upgrades a request to a WebSocket, and registers the connection. It sends either
// pusher:connection_established or the reason why it closes the connection: over the WebSocket, because browsers hide
// handshake failures from pages. A refused connection counts toward the limit until it has ended.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !r.ProtoAtLeast(1, 1) ||
		!strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
		s.log.Debug("WebSocket handshake failed: a proxy must use HTTP/1.1 and forward the Upgrade and Connection headers")
		http.Error(w, "Not a WebSocket handshake: connect with a Channels client such as pusher-js. A reverse proxy must "+
			"use HTTP/1.1 and forward the Upgrade and Connection headers.", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, _, err := ws.HTTPUpgrader{Timeout: handshakeTime}.Upgrade(r, w)
	if err != nil {
		s.log.Debug("WebSocket handshake failed", "error", err)
		if conn != nil {
			conn.Close()
		}
		return
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // frames that arrived with the handshake
	early = bytes.Clone(early)
	c := &connection{
		conn:     conn,
		server:   s,
		id:       fmt.Sprintf("%d.%d", rand.Uint32(), rand.Uint32()),
		received: rate.NewLimiter(receiveRate, receiveBurst),
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close() // not with code 4200, after which pusher-js would retry without a pause
		return
	}
	code, reason := s.refusal(r)
	s.connections[c] = struct{}{}
	if code != 0 {
		c.sendError(code, reason)
		c.close(code, reason)
	} else {
		s.log.Debug("connected", "connection", c.id)
		c.send(jsonFrame(outgoing{Event: "pusher:connection_established", Data: fmt.Sprintf(
			`{"socket_id":"%s","activity_timeout":%d}`, c.id, activityTimeout)}))
	}
	s.open.Go(func() { c.serve(early, code != 0) }) // in a new goroutine, so that net/http can free the request's memory
}

// refusal returns the close code and the reason for refusing a client, or 0 and "". The caller holds s.mu.
func (s *Server) refusal(r *http.Request) (code ws.StatusCode, reason string) {
	key, protocol := r.PathValue("key"), r.URL.Query().Get("protocol")
	version, err := strconv.Atoi(protocol)
	switch {
	case len(s.connections) >= maxConnections:
		return codeOverCapacity, "This server has too many connections. Reconnect later."
	case !allowedOrigin(r):
		return codeUnauthorized, fmt.Sprintf("The origin %+.50q is not allowed: only this server's own pages may connect, "+
			"and a reverse proxy must not change the Host header.", r.Header.Get("Origin"))
	case key != s.key:
		return codeUnknownKey, fmt.Sprintf("App key %+.40q not in this cluster. Did you forget to specify the cluster?", key)
	case protocol == "":
		return codeMissingProtocol, "No protocol version. Connect with ?protocol=7."
	case err != nil:
		return codeUnreadableProtocol, "Invalid protocol version. Connect with ?protocol=7."
	case version < 5 || version > 7:
		return codeUnknownProtocol, "Unsupported protocol version. This server supports versions 5, 6 and 7."
	}
	return 0, ""
}

// allowedOrigin reports whether a page from the request's Origin may open a WebSocket. The page must be from this
// server's host and port or, if the client is on this machine, from any loopback address. Requests without an Origin
// are allowed: only programs other than browsers omit it. The scheme is not compared: a proxy may terminate TLS. (In
// this program, web.Protect has corrected r.Host.)
func allowedOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	page, err := url.Parse(origin)
	if origin == "" || err != nil {
		return origin == ""
	}
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	ip, _ := netip.ParseAddr(page.Hostname())
	local := ip.Unmap().IsLoopback() || strings.HasSuffix("."+strings.ToLower(page.Hostname()), ".localhost")
	return strings.EqualFold(page.Host, r.Host) || local && peer.Addr().Unmap().IsLoopback()
}

// remove unregisters c, which has ended, and removes its subscriptions.
func (s *Server) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, channel := range c.subscriptions {
		s.removeSubscriber(channel, c)
	}
	delete(s.connections, c)
	s.log.Debug("disconnected", "connection", c.id)
}

// subscribe adds c to the subscribers of a channel and sends c pusher_internal:subscription_succeeded, or pusher:error
// if the subscription is not possible.
func (s *Server) subscribe(c *connection, channel string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case slices.Contains(c.subscriptions, channel):
		c.sendError(nil, "Existing subscription to channel "+channel)
	case len(c.subscriptions) >= maxSubscriptions:
		c.sendError(nil, fmt.Sprintf("A connection may subscribe to at most %d channels. Unsubscribe from some first.",
			maxSubscriptions))
	default:
		c.subscriptions = append(c.subscriptions, channel)
		s.channels[channel] = append(s.channels[channel], c)
		// Sent while s.mu is held, so that no event of the channel is sent earlier.
		c.send(jsonFrame(outgoing{Event: "pusher_internal:subscription_succeeded", Channel: channel, Data: "{}"}))
		s.log.Debug("subscribed", "connection", c.id, "channel", channel)
	}
}

// unsubscribe removes c from the subscribers of a channel. The protocol has no response to this.
func (s *Server) unsubscribe(c *connection, channel string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(c.subscriptions, channel); i >= 0 {
		c.subscriptions = slices.Delete(c.subscriptions, i, i+1)
		s.removeSubscriber(channel, c)
		s.log.Debug("unsubscribed", "connection", c.id, "channel", channel)
	}
}

// removeSubscriber removes c from the subscribers of a channel. The caller holds s.mu.
func (s *Server) removeSubscriber(channel string, c *connection) {
	subscribers := s.channels[channel]
	i := slices.Index(subscribers, c)
	s.channels[channel] = slices.Delete(subscribers, i, i+1)
	if len(s.channels[channel]) == 0 {
		delete(s.channels, channel)
	}
}

// publish queues each event for the subscribers of its channels, except for the connection that the event excludes. It
// never waits for a client.
func (s *Server) publish(events []event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		for _, channel := range e.Channels {
			subscribers := s.channels[channel]
			s.log.Debug("event", "channel", channel, "event", e.Name, "data", *e.Data, "subscribers", len(subscribers))
			if len(subscribers) == 0 {
				continue
			}
			message := jsonFrame(outgoing{Event: e.Name, Channel: channel, Data: *e.Data})
			for _, c := range subscribers {
				if c.id != e.SocketID {
					c.send(message)
				}
			}
		}
	}
}
