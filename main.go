// Pusher-sample is one page with one button. A click posts to /pusher, the
// server triggers event1 on channel1, and every open page alerts its message.
//
// A click goes: static/app.js → servePush → pusher.Client.Trigger → Pusher (or
// the embedded internal/channels) → pusher-js in every page → alert.
package main

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pusher-sample/internal/channels"
	"pusher-sample/internal/guard"
	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"
	"pusher-sample/internal/site"

	"github.com/pusher/pusher-http-go/v5"
)

const (
	channel = "channel1"
	event   = "event1"
	data    = `{"message":"((((((((((っ･ωΣ[柱]ｶﾞｺｯ!"}`

	maxTriggers = 256             // under way at one time
	stopTime    = 8 * time.Second // for running requests, once told to stop

	usage = `pusher-sample serves a page whose button alerts every open page, by way of
Pusher Channels.

  pusher-sample [-debug]                            serve the page
  pusher-sample trigger [CHANNEL [EVENT [DATA]]]    trigger one event and say how it
                                                    went; by default test_channel
                                                    my_event {"message":"hello world"}

  -debug     read templates/ and static/ from disk at each request, log every
             connection and event, have pusher-js log to the browser's console
  -version   print the versions of this program and of Go

Settings are environment variables, or lines of a file .env:

  PUSHER_URL          https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID, or the URL
                      of any Channels server. Without it app.cfg is read (see
                      app.cfg.example); without both, an embedded server is used.
  PUSHER_CLUSTER      the app's cluster, where the URL does not name it
  PUSHER_SOCKET_URL   ws[s]://HOST[:PORT], where browsers reach a server of your own
                      at another address
  PORT                listen on all interfaces at this port; else 127.0.0.1:5000
  RATE_LIMIT          clicks a second allowed to one client address; default 5, 0 for
                      no limit
`
)

//go:embed templates static
var bundled embed.FS

func main() {
	if err := run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "pusher-sample:", err)
		os.Exit(1)
	}
}

// run is the program. It ends when ctx does, or at SIGINT or SIGTERM.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("pusher-sample", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	debugging := flags.Bool("debug", false, "")
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	command := flags.Arg(0)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return nil
	case err != nil:
		return fmt.Errorf("%w; pusher-sample -h shows what there is", err)
	case *version:
		fmt.Fprintln(stdout, versions())
		return nil
	case command != "" && command != "trigger":
		return fmt.Errorf("there is no command %.40q; pusher-sample -h shows what there is", command)
	}
	set, err := settings.Load(getenv, ".")
	if err != nil {
		return err
	}
	if command == "trigger" {
		return trigger(set, flags.Args()[1:], stdout)
	}
	level := slog.LevelInfo
	if *debugging {
		level = slog.LevelDebug
	}
	a := newApp(set, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))
	defer a.close()
	a.debug = *debugging
	a.onHeroku = getenv("DYNO") != ""
	if a.channels == nil && getenv("GOGC") == "" {
		// Without the embedded server the heap is a few MB. Letting it grow by 16 MB
		// before it is collected makes a quarter more pages and a tenth more clicks
		// a second.
		debug.SetGCPercent(400)
	}
	return a.serve(ctx, stdout)
}

// versions says what was built, and by which Go release.
func versions() string {
	version := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return "pusher-sample " + version + " " + runtime.Version()
}

// trigger is the command of that name: the quickest test of an account.
func trigger(set settings.Settings, args []string, stdout io.Writer) error {
	if set.Embedded() {
		return errors.New("trigger needs credentials: set PUSHER_URL, or fill in app.cfg; a running pusher-sample without credentials prints the PUSHER_URL of its embedded server")
	}
	what := []string{"test_channel", "my_event", `{"message":"hello world"}`}
	if len(args) > len(what) {
		return errors.New("trigger takes a channel, an event and its data, no more; put quotes around data that holds spaces")
	}
	copy(what, args)
	if err := newClient(set, pusherapi.NewTransport(1)).Trigger(what[0], what[1], what[2]); err != nil {
		_, text := pusherapi.Explain(err, serverName(set))
		return errors.New(text)
	}
	fmt.Fprintf(stdout, "%s took the event %s on the channel %s.\n", serverAddress(set), what[1], what[0])
	return nil
}

// app is the web app.
type app struct {
	settings settings.Settings
	debug    bool
	onHeroku bool
	pusher   *pusher.Client
	channels *channels.Server // the embedded server; nil unless it is in use
	log      *slog.Logger
}

func newApp(set settings.Settings, log *slog.Logger) *app {
	a := &app{settings: set, log: log}
	transport := pusherapi.NewTransport(maxTriggers)
	if set.Embedded() {
		own := channels.App{ID: "1", Key: "local", Secret: rand.Text()}
		a.settings.AppID, a.settings.Key, a.settings.Secret, a.settings.Host = own.ID, own.Key, own.Secret, "embedded"
		a.channels = channels.New(own, log)
		transport = pusherapi.InProcess(a.channels)
	}
	a.pusher = newClient(a.settings, transport)
	return a
}

func (a *app) close() {
	if a.channels != nil {
		a.channels.Close()
	}
}

// newClient returns the client that every event goes through.
func newClient(set settings.Settings, transport http.RoundTripper) *pusher.Client {
	return &pusher.Client{
		AppID:      set.AppID,
		Key:        set.Key,
		Secret:     set.Secret,
		Host:       set.Host,
		Secure:     set.Secure,
		HTTPClient: &http.Client{Transport: transport},
	}
}

// serverName is how the page's messages name the server that events go to. Visitors
// read them, so a self-hosted server's host is not in them.
func serverName(set settings.Settings) string {
	switch {
	case set.Embedded():
		return "the embedded Channels server"
	case set.SocketURL == "":
		return "Pusher"
	default:
		return "the Channels server"
	}
}

// serverAddress is how the log and the trigger command name the same server.
func serverAddress(set settings.Settings) string {
	if set.SocketURL != "" {
		return set.Host
	}
	return serverName(set)
}

// page is what templates/index.html shows.
type page struct {
	Channel, Event string
	Key            string
	Cluster        string // of Pusher; else empty
	Socket         string // URL of a self-hosted server; else empty
	Debug          bool
	Notice         string
}

// handler is all that the app serves.
func (a *app) handler() (http.Handler, error) {
	set := a.settings
	p := page{
		Channel: channel, Event: event,
		Key: set.Key, Cluster: set.Cluster, Socket: set.SocketURL, Debug: a.debug,
	}
	if a.onHeroku && set.Embedded() {
		p.Notice = "No PUSHER_URL is set, so this dyno has a Channels server of its own: pages that another dyno serves hear nothing of a click here."
		a.log.Warn(p.Notice)
	}
	files, err := site.New(bundled, p)
	if a.debug {
		files, err = site.Live(os.DirFS("."), p)
	}
	if err != nil {
		return nil, err
	}
	push := guard.AtMost(maxTriggers, http.HandlerFunc(a.servePush))

	mux := http.NewServeMux()
	route(mux, "GET", "/{$}", files)
	route(mux, "GET", "/static/", files)
	route(mux, "GET", "/healthz", http.HandlerFunc(serveHealth))
	route(mux, "POST", "/pusher", guard.RateLimit(set.RateLimit, a.onHeroku, push))
	mux.HandleFunc("/", serveNotFound)
	if a.channels != nil {
		mux.Handle("/app/", a.channels)
		mux.Handle("/apps/", a.channels)
	}
	return guard.Recover(a.log, guard.Headers(
		[]string{"https://js.pusher.com"}, socketSources(set), guard.SameOrigin(mux))), nil
}

// route has next answer one method at a path, and says of others that it does not.
func route(mux *http.ServeMux, method, path string, next http.Handler) {
	mux.Handle(method+" "+path, next)
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", strings.Replace(method, "GET", "GET, HEAD", 1))
		http.Error(w, "This address takes "+method+" only.", http.StatusMethodNotAllowed)
	})
}

// servePush answers a click: it triggers the event, and says ok once it is taken.
func (a *app) servePush(w http.ResponseWriter, r *http.Request) {
	if r.Context().Err() != nil {
		return // nobody waits for this click any more
	}
	err := a.pusher.Trigger(channel, event, data)
	if err != nil {
		status, text := pusherapi.Explain(err, serverName(a.settings))
		a.log.Warn("click failed", "status", status, "server", a.settings.Host, "reason", text)
		http.Error(w, text, status)
		return
	}
	io.WriteString(w, "ok")
}

func serveHealth(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }

func serveNotFound(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "Nothing is at this address. The page is at /.", http.StatusNotFound)
}

// socketSources are where the page's Channels client connects to, for the
// Content-Security-Policy: the WebSocket, and at Pusher what stands in for it.
func socketSources(set settings.Settings) []string {
	if set.SocketURL == "" && !set.Embedded() {
		return []string{"wss://ws-" + set.Cluster + ".pusher.com", "https://sockjs-" + set.Cluster + ".pusher.com"}
	}
	if u, err := url.Parse(set.SocketURL); err == nil && u.Host != "" {
		return []string{u.Scheme + "://" + u.Host}
	}
	return nil // the page's own origin
}

// serve serves until ctx ends or a signal comes, then finishes what runs.
func (a *app) serve(ctx context.Context, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	handler, err := a.handler()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", a.settings.Addr)
	if err != nil {
		return explainListen(err, a.settings.Addr)
	}
	server := guard.Server(a.log, handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	a.announce(listener.Addr().(*net.TCPAddr), stdout)
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop() // a second signal ends the program at once
	a.log.Info("stopping: running clicks are finished, pages are told to come back")
	late, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		a.log.Warn("some requests took too long and were cut")
		server.Close()
	}
	return nil
}

// explainListen says why the server can't listen and what to do.
func explainListen(err error, addr string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf(`another program listens at %s already: stop it, or use another port with "PORT=5001 go run ."`, addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf(`%s is not open to this user: use a port above 1023 with "PORT=5001 go run ."`, addr)
	default:
		return fmt.Errorf("can't listen at %s: %w", addr, err)
	}
}

// announce says where the page is and where events go.
func (a *app) announce(at *net.TCPAddr, stdout io.Writer) {
	host := at.IP.String()
	if at.IP.IsUnspecified() {
		host = "localhost"
	}
	address := net.JoinHostPort(host, strconv.Itoa(at.Port))
	credentials := a.settings.Source
	if a.settings.Embedded() {
		credentials = "none, none needed"
	}
	a.log.Info("ready", "page", "http://"+address+"/", "events", serverAddress(a.settings), "credentials", credentials)
	if a.settings.Embedded() && at.IP.IsLoopback() {
		// The one place where a secret is shown: it was made at this start, is worth
		// nothing elsewhere, and is shown only to who started the program.
		fmt.Fprintf(stdout, "To trigger events from another terminal:\n  PUSHER_URL=http://%s:%s@%s/apps/%s go run . trigger\n",
			a.settings.Key, a.settings.Secret, address, a.settings.AppID)
	}
}
