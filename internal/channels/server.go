// Package channels is an embedded Pusher Channels server: public channels, in
// memory, for one app. It speaks as much of the Channels protocol, version 7, as
// pusher-js needs to subscribe and any Channels library needs to trigger, so
// that an app that uses Channels can be tried, developed and tested without an
// account.
//
//	GET  /app/{key}               the WebSocket that pages subscribe on
//	POST /apps/{id}/events        triggers one event on up to 100 channels
//	POST /apps/{id}/batch_events  triggers up to 10 events
//
// Nothing is kept: an event goes to whoever is subscribed at that moment.
package channels

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"
)

// Limits. Those of the protocol are Pusher's own
// (https://pusher.com/docs/channels/library_auth_reference/rest-api/).
const (
	maxSockets           = 20_000   // beyond it, 4100
	maxChannelsPerSocket = 100      // of one socket, at one time
	maxMessage           = 100_000  // bytes of one message from a client
	maxWaiting           = 1 << 20  // bytes that may wait for one slow subscriber
	maxMessageRate       = 500      // messages of one socket between two sweeps
	maxChannelName       = 164      // characters; a rule of the protocol
	maxEventName         = 200      // characters; a rule of the protocol
	maxEventData         = 10 << 10 // bytes, decoded; a rule of the protocol
	maxEventChannels     = 100      // a rule of the protocol
	maxBatch             = 10       // events; a rule of the protocol
	maxBody              = 1 << 20  // bytes: a full batch, however its JSON is escaped
	maxClockSkew         = 600      // seconds between auth_timestamp and now; a rule of the protocol
	activityTimeout      = 120      // seconds, told to clients: they ping after this much silence
	protocolVersion      = "7"      // the one that pusher-js speaks
	handshakeTime        = 5 * time.Second
	pingAfter            = 25 * time.Second // of silence; below the 55 s after which Heroku's router cuts
	dropAfter            = 60 * time.Second // of silence, so at least one ping went unanswered
	writeTime            = 10 * time.Second // that a peer may take to accept what is being written
	closeTime            = 2 * time.Second  // that a peer may take to answer a close
	sweepEvery           = 5 * time.Second
)

// Close codes tell pusher-js what to do next: 4000 to 4099 not to come back,
// 4100 to 4199 to come back after a while, 4200 to 4299 at once.
// (https://pusher.com/docs/channels/library_auth_reference/pusher-websockets-protocol/#error-codes)
const (
	codeUnknownKey    = 4001
	codeBadProtocol   = 4007
	codeUnauthorized  = 4009
	codeOverCapacity  = 4100
	codeReconnect     = 4200
	codeNoPong        = 4201
	codeTooMany       = 4301
	codeUnsupported   = 1003 // RFC 6455, section 7.4.1
	codeInternalError = 1011
)

// App is the app that a Server serves. All fields are required.
type App struct {
	ID     string // names the app in the HTTP API's paths
	Key    string // names the app to clients; public
	Secret string // signs the HTTP API's requests; never logged
}

// Server is the http.Handler of one app's channels.
type Server struct {
	app      App
	log      *slog.Logger
	mux      *http.ServeMux
	upgrader *gws.Upgrader
	stop     context.CancelFunc // ends the sweeping
	reading  sync.WaitGroup     // one for each socket

	mu       sync.Mutex // held while an event is handed out: all subscribers hear events in one order
	closed   bool
	lastID   uint64
	sockets  map[*socket]struct{}
	channels map[string][]*socket // subscribers, in the order they came: memory is read in order too
}

// New returns a running server for app. Connections, subscriptions and events
// are logged to log at level debug. Close must be called to end it.
func New(app App, log *slog.Logger) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		app:      app,
		log:      log,
		mux:      http.NewServeMux(),
		stop:     stop,
		sockets:  make(map[*socket]struct{}),
		channels: make(map[string][]*socket),
	}
	s.upgrader = gws.NewUpgrader(events{}, &gws.ServerOption{
		ReadMaxPayloadSize: maxMessage,
		ReadBufferSize:     512, // what clients send is short; it is held for each socket
		HandshakeTimeout:   handshakeTime,
		CheckUtf8Enabled:   true,
		Logger:             gwsLogger{log},
		NewSession:         func() gws.SessionStorage { return &socket{server: s} },
	})
	s.route("GET", "/app/{key}", s.serveSocket)
	s.route("POST", "/apps/{id}/events", s.serveEvents)
	s.route("POST", "/apps/{id}/batch_events", s.serveBatch)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Nothing is here. This Channels server answers GET /app/KEY (WebSocket), POST /apps/ID/events and POST /apps/ID/batch_events.", http.StatusNotFound)
	})
	go s.sweep(ctx)
	return s
}

func (s *Server) route(method, path string, handle http.HandlerFunc) {
	s.mux.HandleFunc(method+" "+path, handle)
	s.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", method)
		http.Error(w, "This address takes "+method+" only.", http.StatusMethodNotAllowed)
	})
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close tells every client to reconnect at once (close code 4200), waits up to
// 2 s for their answers, and ends all connections. New ones are then refused.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for k := range s.sockets {
		k.close(codeReconnect, "This server is stopping. Reconnect at once.")
	}
	s.mu.Unlock()
	s.stop()
	s.reading.Wait() // each read ends within closeTime
}

// serveSocket makes the request a WebSocket. What is wrong with the key or the
// protocol is told on the socket, as browsers show a page nothing of a refused
// handshake.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request) {
	if !sameOrigin(r) {
		http.Error(w, "WebSockets are taken from this server's own pages only: the Origin header names another site.", http.StatusForbidden)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-WebSocket-Version") != "13" {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "This address speaks WebSocket (RFC 6455, version 13): connect to it with a Channels client such as pusher-js.", http.StatusUpgradeRequired)
		return
	}
	if !s.enter() {
		http.Error(w, "This server is stopping. Try again in a moment.", http.StatusServiceUnavailable)
		return
	}
	conn, err := s.upgrader.Upgrade(w, r)
	if err != nil {
		s.log.Debug("WebSocket handshake failed", "error", err)
		s.reading.Done()
		return
	}
	k := conn.Session().(*socket)
	k.conn = conn
	k.heard.Store(time.Now().UnixNano())
	code, text := s.admit(k, r.PathValue("key"), r.URL.Query().Get("protocol"))
	if code == 0 {
		s.log.Debug("connected", "socket", k.id)
		k.send(jsonFrame(outgoing{Event: "pusher:connection_established", Data: jsonString(
			fmt.Sprintf(`{"socket_id":"%s","activity_timeout":%d}`, k.id, activityTimeout))}))
	} else {
		s.log.Debug("connection refused", "code", code, "reason", text)
		k.sendError(code, text)
		k.close(uint16(code), text)
	}
	// A goroutine of its own, so that what net/http keeps for the request is freed.
	go k.read()
}

// enter counts one more socket for Close to wait for, unless it is too late.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.reading.Add(1)
	}
	return !s.closed
}

// admit counts k among the sockets, or gives the close code to refuse it with.
// Refused sockets are counted too until they are gone.
func (s *Server) admit(k *socket, key, protocol string) (code int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	k.id = fmt.Sprintf("%d.%d", 1+rand.Uint32N(1<<30), s.lastID)
	switch {
	case s.closed: // not 4200: before a connection is established pusher-js would try without pause
		code, text = codeOverCapacity, "This server is stopping. Come back in a moment."
	case len(s.sockets) >= maxSockets:
		code, text = codeOverCapacity, "This server is full. Try again later."
	case key != s.app.Key:
		code, text = codeUnknownKey, fmt.Sprintf("App key %.40q not in this cluster. Did you forget to specify the cluster?", key)
	case protocol != protocolVersion:
		code, text = codeBadProtocol, "Unsupported protocol version. This server speaks version "+protocolVersion+"."
	}
	s.sockets[k] = struct{}{}
	return code, text
}

// remove forgets k, wherever it is subscribed.
func (s *Server) remove(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(k.channels) > 0 {
		s.leave(k, len(k.channels)-1)
	}
	delete(s.sockets, k)
}

// subscribe has k hear the events of a channel. It returns what is wrong, if
// anything, for the client.
func (s *Server) subscribe(k *socket, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case k.subscription(name) >= 0:
		return "Existing subscription to channel " + name
	case len(k.channels) >= maxChannelsPerSocket:
		return fmt.Sprintf("One connection may subscribe to %d channels at most. Unsubscribe from some first.", maxChannelsPerSocket)
	}
	k.channels = append(k.channels, subscription{name, len(s.channels[name])})
	s.channels[name] = append(s.channels[name], k)
	// Under the lock, so that no event of the channel gets ahead of it.
	k.send(jsonFrame(outgoing{Event: "pusher_internal:subscription_succeeded", Channel: name, Data: jsonString("{}")}))
	return ""
}

func (s *Server) unsubscribe(k *socket, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := k.subscription(name); i >= 0 {
		s.leave(k, i)
	}
}

// leave ends k's i-th subscription. It is called with s.mu held.
func (s *Server) leave(k *socket, i int) {
	left := k.channels[i]
	k.channels = slices.Delete(k.channels, i, i+1)
	// The last subscriber takes the place, so that the others keep theirs.
	subscribers := s.channels[left.channel]
	end := len(subscribers) - 1
	if last := subscribers[end]; last != k {
		subscribers[left.place] = last
		last.channels[last.subscription(left.channel)].place = left.place
	}
	subscribers[end] = nil
	if s.channels[left.channel] = subscribers[:end]; end == 0 {
		delete(s.channels, left.channel)
	}
}

// publish hands the events to all their subscribers and waits for none of them.
func (s *Server) publish(events []event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		for _, name := range e.Channels {
			subscribers := s.channels[name]
			s.log.Debug("event", "channel", name, "event", e.Name, "data", *e.Data, "subscribers", len(subscribers))
			if len(subscribers) == 0 {
				continue
			}
			frame := jsonFrame(outgoing{Event: e.Name, Channel: name, Data: jsonString(*e.Data)})
			for _, k := range subscribers {
				if k.id != e.SocketID {
					k.send(frame)
				}
			}
		}
	}
}

// sweep pings quiet sockets and drops dead, stuck and flooding ones. One
// goroutine for all of them spares each its timers and deadlines.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		now := time.Now()
		for k := range s.sockets {
			k.check(now)
		}
		s.mu.Unlock()
	}
}

// sameOrigin reports whether a browser's request comes from a page of this very
// host, or from no browser at all. The scheme is not compared: TLS may end in
// front of this server.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// gwsLogger passes on what gws would print by itself.
type gwsLogger struct{ log *slog.Logger }

func (l gwsLogger) Error(v ...any) { l.log.Debug("WebSocket", "error", errors.New(fmt.Sprint(v...))) }
