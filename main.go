// Pusher-sample is one page with one button. A click posts to /pusher, the
// server triggers event1 on channel1, and every open page alerts its message.
//
// A click goes: static/app.js → servePush → pusher.Client.Trigger → Pusher (or
// the embedded internal/channels) → pusher-js in every page → alert.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"pusher-sample/internal/channels"
	"pusher-sample/internal/guard"
	"pusher-sample/internal/listen"
	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"
	"pusher-sample/internal/site"

	"github.com/pusher/pusher-http-go/v5"
)

// What a click triggers: the page subscribes to the channel, and alerts the message.
const (
	channel = "channel1"
	event   = "event1"
	message = "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!"
)

// maxTriggers is how many clicks may be in flight at one time.
const maxTriggers = 256

//go:embed templates static
var bundled embed.FS

func main() {
	if err := run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "pusher-sample:", err)
		os.Exit(1)
	}
}

// run runs the program until ctx ends, or until SIGINT or SIGTERM.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("pusher-sample", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	addr := flags.String("addr", "", "")
	debugging := flags.Bool("debug", false, "")
	err := flags.Parse(args)
	command := flags.Arg(0)
	switch {
	case slices.ContainsFunc(args, func(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }):
		_, err := io.WriteString(stdout, usage)
		return err
	case err != nil:
		return fmt.Errorf("%w; see pusher-sample -h", err)
	case command != "" && command != "trigger":
		return fmt.Errorf("unknown command %.40q; see pusher-sample -h", command)
	}

	level := slog.LevelInfo
	if *debugging {
		level = slog.LevelDebug
	}
	log := slog.New(guard.LimitLog(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))
	config, err := settings.Load(environ, ".")
	for _, warning := range config.Warnings {
		log.Warn(warning)
	}
	if err != nil {
		return err
	}
	if command == "trigger" {
		return trigger(config, flags.Args()[1:], stdout)
	}
	config.Addr = cmp.Or(*addr, config.Addr)
	a := newApp(config, log)
	a.debug = *debugging
	gcPercent := 100
	if a.channels == nil {
		gcPercent = 400 // the heap is small
	}
	guard.LimitMemory(os.Getenv, gcPercent)
	return a.serve(ctx, stdout)
}

// app is the web app.
type app struct {
	settings settings.Settings
	debug    bool
	pusher   *pusher.Client
	channels *channels.Server // the embedded server; nil unless it is in use
	log      *slog.Logger
}

func newApp(config settings.Settings, log *slog.Logger) *app {
	a := &app{settings: config, log: log}
	if !config.Embedded() {
		a.pusher = newClient(config, pusherapi.NewTransport(maxTriggers))
		return a
	}
	embedded := channels.App{ID: "1", Key: "local", Secret: rand.Text()}
	a.settings.AppID, a.settings.Key, a.settings.Secret = embedded.ID, embedded.Key, embedded.Secret
	options := channels.Options{MaxConnections: guard.FileLimit() / 2}
	if config.RateLimit > 0 {
		options.ClientAddress = guard.ClientAddress(config.TrustProxy)
	}
	a.channels = channels.New(embedded, options, log)
	a.pusher = newClient(a.settings, pusherapi.InProcess(a.channels))
	return a
}

// newClient returns the client that triggers all events.
func newClient(config settings.Settings, transport http.RoundTripper) *pusher.Client {
	return &pusher.Client{
		AppID:      config.AppID,
		Key:        config.Key,
		Secret:     config.Secret,
		Host:       config.Host,
		Secure:     config.Secure,
		HTTPClient: &http.Client{Transport: transport},
	}
}

// page is the data of templates/index.html.
type page struct {
	Channel, Event string
	Key            string
	Cluster        string // of Pusher; else empty
	Socket         string // URL of a self-hosted server; else empty
	Debug          bool
	Notice         string
}

// handler returns the handler of all requests.
func (a *app) handler() (http.Handler, error) {
	config := a.settings
	p := page{
		Channel: channel, Event: event,
		Key: config.Key, Cluster: config.Cluster, Socket: config.SocketURL, Debug: a.debug,
	}
	if config.Heroku && config.Embedded() {
		p.Notice = "No PUSHER_URL is set, so each dyno runs its own embedded server: clicks won't reach pages connected to other dynos."
		a.log.Warn(p.Notice)
	}
	files, err := site.New(bundled, p)
	if a.debug {
		files, err = site.NewDebug(".", p)
	}
	if err != nil {
		return nil, err
	}
	push := guard.MaxInFlight(a.log, maxTriggers, http.HandlerFunc(a.servePush))

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", files)
	mux.Handle("GET /static/", files)
	mux.HandleFunc("GET /healthz", serveHealth)
	mux.Handle("POST /pusher", guard.RateLimit(a.log, config.RateLimit, guard.ClientAddress(config.TrustProxy), push))
	if a.channels != nil {
		mux.Handle("/app/", a.channels)
		mux.Handle("/apps/", a.channels)
	}
	return guard.Recover(a.log, guard.Headers(
		config.TrustProxy, []string{"https://js.pusher.com/8.6.0/"}, config.Connect(), guard.SameOrigin(a.log, mux))), nil
}

// servePush handles a click. It triggers the event even if the browser has disconnected by
// now, because other pages are waiting for the event.
func (a *app) servePush(w http.ResponseWriter, r *http.Request) {
	err := a.pusher.Trigger(channel, event, map[string]string{"message": message})
	a.respond(w, r, err)
}

// respond says ok if an event was accepted, else why it was not.
func (a *app) respond(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		io.WriteString(w, "ok")
		return
	}
	status, text := pusherapi.Explain(err, serverName(a.settings))
	attrs := []any{"status", status, "server", cmp.Or(a.pusher.Host, "embedded server"), "reason", text}
	if id := r.Header.Get("X-Request-ID"); id != "" && a.settings.TrustProxy {
		attrs = append(attrs, "request_id", fmt.Sprintf("%.200s", id)) // Heroku's own limit
	}
	a.log.Warn("click failed", attrs...)
	http.Error(w, text, status)
}

func serveHealth(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }

// serve serves until ctx ends or a signal arrives.
func (a *app) serve(ctx context.Context, stdout io.Writer) error {
	ctx = guard.StopContext(ctx)
	if a.channels != nil {
		defer a.channels.Close()
	}
	handler, err := a.handler()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", a.settings.Addr)
	if err != nil {
		return listen.Explain(err, a.settings.Addr)
	}
	if listener.Addr().(*net.TCPAddr).IP.IsLoopback() && !a.settings.TrustProxy {
		handler = guard.RejectRebinding(a.log, handler)
	}
	a.announce(listener.Addr().(*net.TCPAddr), stdout)
	return guard.Serve(ctx, a.log, listener, handler)
}

// trigger triggers one event and prints the result: the quickest test of an account.
func trigger(config settings.Settings, args []string, stdout io.Writer) error {
	parts := []string{"test_channel", "my_event", `{"message":"hello world"}`}
	copy(parts, args)
	to, name, data := parts[0], parts[1], parts[2]
	switch {
	case len(args) > len(parts):
		return errors.New("too many arguments for trigger: it accepts a channel, an event and data; put quotes around data with spaces")
	case strings.HasPrefix(to, "-") || strings.HasPrefix(name, "-"):
		return errors.New("the names of the channel and the event can't begin with -; flags go before trigger, see pusher-sample -h")
	case config.Embedded():
		return errors.New("trigger needs credentials: set PUSHER_URL, or fill in app.cfg; without an account, use the PUSHER_URL that a running pusher-sample prints")
	}
	if err := newClient(config, pusherapi.NewTransport(1)).Trigger(to, name, data); err != nil {
		_, text := pusherapi.Explain(err, serverName(config))
		return fmt.Errorf("%s (API host %s, credentials from %s)", text, config.Host, config.Source)
	}
	fmt.Fprintf(stdout, "%s accepted the event %s on the channel %s.\n", config.Host, name, to)
	var fields map[string]any
	json.Unmarshal([]byte(data), &fields)
	if _, ok := fields["message"].(string); !ok && to == channel && name == event {
		fmt.Fprintln(stdout, `The page can't show it: DATA must be JSON with a message, such as '{"message":"hi"}'.`)
	}
	return nil
}

// announce logs the page's address and the settings in force. If an embedded server listens
// on a loopback address, it prints how to use that server from another terminal.
func (a *app) announce(at *net.TCPAddr, stdout io.Writer) {
	config := a.settings
	local, network := listen.URLs(at)
	page := slog.String("page", local)
	if config.Heroku {
		page, network = slog.Attr{}, nil // only Heroku's router reaches a dyno
	}
	a.log.Info("ready", page, "address", at.String(), "version", version(),
		"events", cmp.Or(config.Host, "embedded server"), "credentials", cmp.Or(config.Source, "none"),
		"cluster", config.Cluster, "rate_limit", config.RateLimit, "trust_proxy", config.TrustProxy)
	if network != nil {
		a.log.Info("other devices on the network can open the page", "page", strings.Join(network, " "))
	}
	if a.channels != nil && at.IP.IsLoopback() {
		// The one place where a secret is shown: it was generated at this start, is worth
		// nothing elsewhere, and is shown only to the person who started the program.
		pusherURL := fmt.Sprintf("http://%s:%s@%s/apps/%s", config.Key, config.Secret, at, config.AppID)
		fmt.Fprint(stdout, terminalHint(runtime.GOOS, pusherURL, listen.NextAddr(at.String())))
	}
}

// terminalHint returns the commands that use the server at pusherURL in another
// terminal, for the usual shell of goos. A second app listens on addr.
func terminalHint(goos, pusherURL, addr string) string {
	set := "PUSHER_URL=" + pusherURL + " "
	if goos == "windows" {
		set = "$env:PUSHER_URL='" + pusherURL + "'; " // PowerShell
	}
	return "In another terminal, trigger an event, or start a second app whose pages get the same events:\n  " +
		set + "go run . trigger\n  " + set + "go run . -addr " + addr + "\n"
}

// serverName returns the Channels server's name for messages. Visitors of the page read
// them, so the name doesn't include a self-hosted server's host.
func serverName(config settings.Settings) string {
	switch {
	case config.Embedded():
		return "the embedded Channels server"
	case config.SocketURL == "":
		return "Pusher"
	default:
		return "the Channels server"
	}
}

// version returns the version of this program.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

const usage = `pusher-sample serves a page with one button. A click alerts every open page through
Pusher Channels.

  pusher-sample [-addr HOST:PORT] [-debug]          serve the page
  pusher-sample trigger [CHANNEL [EVENT [DATA]]]    trigger one event and print the
                                                    result; by default test_channel
                                                    my_event {"message":"hello world"}

Settings are environment variables, or NAME=value lines in .env:

  PUSHER_URL          https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID, or the URL of
                      a self-hosted server. Without it, app.cfg is read (see
                      app.cfg.example); without either, an embedded server is used
  PUSHER_CLUSTER      the app's cluster; overrides the one in PUSHER_URL or app.cfg
  PUSHER_SOCKET_URL   ws[s]://HOST[:PORT] of a self-hosted server's WebSockets, if it is
                      not the host in PUSHER_URL
  PORT                listen on this port on all network interfaces; -addr overrides it
  RATE_LIMIT          max clicks per second per client address, in bursts of ten times
                      as many; by default 1; 0 = unlimited
  TRUST_PROXY         1 behind a reverse proxy that sets X-Forwarded-For and
                      X-Forwarded-Proto; always on when deployed to Heroku

Flags, before trigger:

  -addr HOST:PORT     listen on this address, by default 127.0.0.1:5000; without HOST,
                      on all network interfaces
  -debug              read templates/ and static/ from disk on each request, log every
                      connection, subscription and event, and have pusher-js log to the
                      browser's console
`
