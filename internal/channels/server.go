// Package channels provides a Pusher Channels server that runs inside a Go program, so that an app
// can be developed and tested without a Pusher account. It serves one app's public channels, in
// memory. Clients such as pusher-js subscribe over WebSockets, with version 5, 6 or 7 of the
// Channels protocol. Libraries such as pusher-http-go trigger events over the HTTP API.
//
//	GET  /app/{key}               opens a WebSocket, on which the client subscribes
//	POST /apps/{id}/events        triggers one event on up to 100 channels
//	POST /apps/{id}/batch_events  triggers up to 10 events
//
// Not implemented: private, presence, encrypted and cache channels, client events, user
// authentication, webhooks, and API requests that query channels. Events are not stored: only
// current subscribers receive an event.
package channels

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
)

// The server's limits. Those marked "Pusher's" are documented at
// https://pusher.com/docs/channels/library_auth_reference/rest-api/.
const (
	maxConnections   = 20_000   // open WebSockets; more are closed with code 4100
	maxPerClient     = 500      // open WebSockets per client address, which an office may share
	maxSubscriptions = 100      // channels per connection
	maxMessage       = 8 << 10  // bytes per message from a client; a subscription needs at most 300
	maxMessages      = 500      // messages, including pings, per connection in each sweepInterval
	maxReceivedBytes = 64 << 10 // bytes per connection in each sweepInterval
	maxChannelName   = 164      // characters; Pusher's
	maxEventName     = 200      // characters; Pusher's
	maxEventData     = 10 << 10 // bytes, after JSON decoding; Pusher's
	maxEventChannels = 100      // channels per event; Pusher's
	maxBatch         = 10       // events per batch; Pusher's
	maxBody          = 1 << 20  // bytes; enough for a full batch, however its JSON is escaped
	maxClockSkew     = 600      // seconds between auth_timestamp and the server's clock; Pusher's

	// Limits of the queues of frames to clients. The subscribers of a channel share its frames, so
	// each queue needs only 24 bytes per frame, for a slice header.
	maxQueuedBytes  = 16 << 20 // per connection: 1,600 events of 10 KB
	maxQueuedFrames = 8192     // per connection
	maxQueuedTotal  = 1 << 20  // frames in the queues of all connections
	maxUnanswered   = 200      // messages of a client that does not read the responses
	maxBatchBytes   = 64 << 10 // per write, which must finish within writeTimeout

	activityTimeout = 120                    // idle seconds after which clients send a ping
	sweepInterval   = 5 * time.Second        // time between two checks of all connections
	pingAfter       = 25 * time.Second       // inactivity before a ping; Heroku allows only 55 s
	dropAfter       = 60 * time.Second       // inactivity before a close: no pong was received
	writeTimeout    = 10 * time.Second       // time for a client to receive a batch of frames
	closeTimeout    = 2 * time.Second        // time for a handshake, and for the client to close
	lingerTime      = 300 * time.Millisecond // wait for a close frame after an invalid frame
)

// Close codes tell pusher-js what to do next. 4000-4099: don't reconnect. 4100-4199: reconnect
// after a second or more. 4200-4299: reconnect immediately.
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

// App is the app that a Server serves. All fields are required.
type App struct {
	ID     string // identifies the app in the HTTP API's paths
	Key    string // identifies the app to clients; public
	Secret string // signs the HTTP API's requests; never logged
}

// Options are the limits of a Server. The zero value means the default limits.
type Options struct {
	// MaxConnections is the maximum number of open WebSockets, up to 20,000; 0 means 20,000.
	MaxConnections int

	// ClientAddress returns the address of a request's client. Each address may have at most
	// 500 open WebSockets. If ClientAddress is nil, there is no such limit.
	ClientAddress func(*http.Request) netip.Prefix
}

// Server is an http.Handler that serves one app's channels.
type Server struct {
	app     App
	options Options
	log     *slog.Logger
	mux     *http.ServeMux
	started time.Time
	open    sync.WaitGroup // counts connections, including those that are being established
	queued  atomic.Int64   // frames in the queues of all connections

	mu          sync.Mutex // guards the fields below; held by publish to keep events in order
	closed      bool
	lastID      uint64
	connections map[*connection]struct{}
	clients     map[netip.Prefix]int     // numbers of connections by client address
	channels    map[string][]*connection // subscribers; slices are faster to iterate over than maps
}

// New returns a running server for app. Call Close to stop it. The server logs connections,
// subscriptions, events and rejected API requests at level debug; failed handshakes, and clients
// that it refuses or drops, at level info. Clients can repeat these, so log should limit repeats.
func New(app App, options Options, log *slog.Logger) *Server {
	s := &Server{
		app:         app,
		options:     options,
		log:         log,
		mux:         http.NewServeMux(),
		started:     time.Now(),
		connections: make(map[*connection]struct{}),
		clients:     make(map[netip.Prefix]int),
		channels:    make(map[string][]*connection),
	}
	if n := options.MaxConnections; n == 0 || n > maxConnections {
		s.options.MaxConnections = maxConnections
	}
	s.mux.HandleFunc("GET /app/{key}", s.serveWebSocket)
	s.mux.HandleFunc("POST /apps/{id}/events", s.serveEvents)
	s.mux.HandleFunc("POST /apps/{id}/batch_events", s.serveBatch)
	time.AfterFunc(sweepInterval, s.sweep)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close refuses new connections, asks every client to reconnect at once (close code 4200), and
// waits up to 5 s for all connections to end. It may be called more than once.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.connections { // at debug, because there may be thousands
		c.closeWith(slog.LevelDebug, codeReconnect, "This server is stopping. Reconnect at once.")
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.open.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(2*closeTimeout + time.Second): // for a handshake and a close
	}
}

// serveWebSocket upgrades a request to a WebSocket. It sends origin, key and protocol errors over
// the WebSocket, because browsers hide handshake failures from pages.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !isHandshake(r) {
		s.log.Info("WebSocket handshake failed: if the app is behind a proxy, make the proxy use HTTP/1.1 and forward the Upgrade and Connection headers")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "Not a WebSocket handshake (RFC 6455, version 13): connect with a Channels client such as pusher-js.", http.StatusUpgradeRequired)
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		http.Error(w, "This server is stopping. Try again in a moment.", http.StatusServiceUnavailable)
		return
	}
	s.open.Add(1) // Close waits for it
	s.mu.Unlock()
	netConn, _, _, err := ws.HTTPUpgrader{Timeout: closeTimeout}.Upgrade(r, w)
	if err != nil { // usually because the client is gone
		if netConn != nil {
			netConn.Close()
		}
		s.open.Done()
		return
	}
	c := &connection{Conn: netConn, server: s}
	c.lastActivity.Store(int64(time.Since(s.started)))
	s.admit(c, r)
	go c.read() // in a new goroutine, so that net/http can free the request's memory
}

// isHandshake reports whether r is a WebSocket handshake. The server checks that before it hijacks
// the connection, because afterwards net/http can't respond.
func isHandshake(r *http.Request) bool {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	return err == nil && len(key) == 16 && r.Method == http.MethodGet && r.ProtoAtLeast(1, 1) &&
		strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") &&
		strings.EqualFold(r.Header.Get("Upgrade"), "websocket") &&
		r.Header.Get("Sec-WebSocket-Version") == "13"
}

// admit registers c and sends either pusher:connection_established or the reason why it closes c. A
// refused connection counts toward the limits until it has ended.
func (s *Server) admit(c *connection, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	c.id = fmt.Sprintf("%d.%d", 1+rand.Uint32N(1<<30), s.lastID)
	if s.options.ClientAddress != nil {
		c.client = s.options.ClientAddress(r)
	}
	code, reason := s.refusal(c, r)
	s.connections[c] = struct{}{}
	s.clients[c.client]++
	if code != 0 {
		c.sendError(code, reason)
		c.closeWith(slog.LevelInfo, code, reason)
		return
	}
	s.log.Debug("connected", "connection", c.id)
	c.send(jsonFrame(outgoing{Event: "pusher:connection_established", Data: fmt.Sprintf(
		`{"socket_id":"%s","activity_timeout":%d}`, c.id, activityTimeout)}))
}

// refusal returns the close code and the reason for refusing c, or 0 and "". The caller holds s.mu.
func (s *Server) refusal(c *connection, r *http.Request) (code ws.StatusCode, reason string) {
	key, protocol := r.PathValue("key"), r.URL.Query().Get("protocol")
	version, err := strconv.Atoi(protocol)
	switch {
	case s.closed: // not 4200, after which pusher-js would retry without a pause
		return codeOverCapacity, "This server is stopping. Reconnect in a moment."
	case len(s.connections) >= s.options.MaxConnections:
		return codeOverCapacity, "This server has too many connections. Reconnect later."
	case s.options.ClientAddress != nil && s.clients[c.client] >= maxPerClient:
		return codeOverCapacity, "Your network address has too many connections to this server. Reconnect later."
	case !allowedOrigin(r):
		return codeUnauthorized, fmt.Sprintf("The origin %+.50q is not allowed: only this server's own pages may connect.", r.Header.Get("Origin"))
	case key != s.app.Key:
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

// remove unregisters c, which has ended, and removes its subscriptions.
func (s *Server) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, channel := range c.subscriptions {
		s.removeSubscriber(channel, c)
	}
	delete(s.connections, c)
	if s.clients[c.client]--; s.clients[c.client] == 0 {
		delete(s.clients, c.client)
	}
	s.open.Done()
}

// subscribe adds c to the subscribers of a channel and sends c
// pusher_internal:subscription_succeeded, or pusher:error if the subscription is not possible.
func (s *Server) subscribe(c *connection, channel string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case slices.Contains(c.subscriptions, channel):
		c.sendError(nil, "Existing subscription to channel "+channel)
	case len(c.subscriptions) >= maxSubscriptions:
		c.sendError(nil, fmt.Sprintf("A connection may subscribe to at most %d channels. Unsubscribe from some first.", maxSubscriptions))
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

// removeSubscriber removes c by moving the last subscriber to its place. The caller holds s.mu.
func (s *Server) removeSubscriber(channel string, c *connection) {
	subscribers := s.channels[channel]
	end := len(subscribers) - 1
	subscribers[slices.Index(subscribers, c)] = subscribers[end]
	subscribers[end] = nil
	if s.channels[channel] = subscribers[:end]; end == 0 {
		delete(s.channels, channel)
	}
}

// publish queues each event for the subscribers of its channels, except for the connection that the
// event excludes. It never waits for a client.
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
			if s.queued.Load() > maxQueuedTotal {
				s.dropSlowest()
			}
		}
	}
}

// dropSlowest drops the connections with queues of average length or more. The caller holds s.mu.
func (s *Server) dropSlowest() {
	average := int(s.queued.Load()) / len(s.connections)
	for c := range s.connections {
		c.mu.Lock()
		if c.queuedFrames >= average {
			c.drop()
		}
		c.mu.Unlock()
	}
}

// sweep checks all connections every sweepInterval, so that they need no timers of their own.
func (s *Server) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := time.Since(s.started) // monotonic, so setting the clock has no effect
	for c := range s.connections {
		c.check(now)
	}
	time.AfterFunc(sweepInterval, s.sweep)
}

// allowedOrigin reports whether a page from the request's Origin may open a WebSocket. The page
// must be from this server's host and port or, if a browser on the same machine uses a loopback
// address of the server, from any loopback address. Requests without an Origin are allowed:
// only programs other than browsers omit it. The scheme is not compared: a proxy may terminate TLS.
func allowedOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	page, err := url.Parse(origin)
	if err != nil {
		return false
	}
	here := &url.URL{Host: r.Host}
	peer, _, _ := net.SplitHostPort(r.RemoteAddr)
	withPort := page.Host + map[string]string{"http": ":80", "https": ":443"}[page.Scheme] // as some proxies send it
	return strings.EqualFold(page.Host, r.Host) || strings.EqualFold(withPort, r.Host) ||
		isLoopback(page.Hostname()) && isLoopback(here.Hostname()) && isLoopback(peer)
}

func isLoopback(host string) bool {
	ip, _ := netip.ParseAddr(host)
	return ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}
