// Pusher-sample serves a page with one button. A click sends POST /pusher, the server triggers
// event1 on channel1, and every open page shows the event's message in an alert. A click goes
// through static/app.js → servePush → pusher.Client.Trigger → Pusher (or the embedded server in
// internal/channels) → pusher-js in every page → alert.
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

// A click triggers this event, and every open page shows its message in an alert.
const (
	channel = "channel1"
	event   = "event1"
	message = "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!"
)

const maxTriggers = 256 // clicks in flight

//go:embed templates static
var bundled embed.FS

func main() {
	if err := run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "pusher-sample:", err)
		os.Exit(1)
	}
}

// run runs the program with the command-line arguments args and the environment environ. Unless
// args contain a command or -h, it serves the page until ctx is done or SIGINT or SIGTERM arrives.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("pusher-sample", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	addr := flags.String("addr", "", "")
	debugging := flags.Bool("debug", false, "")
	err := flags.Parse(args)
	command := flags.Arg(0)
	if err == nil && command == "trigger" {
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case errors.Is(err, flag.ErrHelp), command == "help":
		_, err := io.WriteString(stdout, usage)
		return err
	case err != nil:
		return fmt.Errorf("%w; use -h for help", err)
	case command != "" && command != "trigger":
		return fmt.Errorf("unknown command %.10q; use -h for help", command)
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
		return trigger(config, log, flags.Args(), stdout)
	}
	config.Addr = cmp.Or(*addr, config.Addr)
	a := newApp(config, log)
	a.debug = *debugging
	return a.serve(ctx, stdout)
}

// app is the web app and contains everything that its handlers need.
type app struct {
	settings settings.Settings
	debug    bool
	pusher   *pusher.Client
	channels *channels.Server // the embedded server; nil unless it is in use
	log      *slog.Logger
}

// newApp returns an app. Without credentials in config, the app has its own embedded server.
func newApp(config settings.Settings, log *slog.Logger) *app {
	a := &app{settings: config, log: log}
	client := pusherapi.NewClient()
	if config.Embedded() {
		embedded := channels.App{ID: "1", Key: "local", Secret: rand.Text()}
		a.settings.AppID, a.settings.Key, a.settings.Secret = embedded.ID, embedded.Key, embedded.Secret
		options := channels.Options{MaxConnections: guard.FileLimit() / 2}
		if config.RateLimit > 0 {
			options.ClientAddress = guard.ClientAddress(config.TrustProxy) // limits WebSockets, too
		}
		a.channels = channels.New(embedded, options, log)
		client = pusherapi.InProcess(a.channels)
	}
	a.pusher = &pusher.Client{
		AppID:      a.settings.AppID,
		Key:        a.settings.Key,
		Secret:     a.settings.Secret,
		Host:       a.settings.Host,
		Secure:     a.settings.Secure,
		HTTPClient: client,
	}
	return a
}

// page is the data for templates/index.html.
type page struct {
	Channel, Event, Key string
	Cluster             string // Pusher cluster, if any
	Socket              string // WebSocket URL of a self-hosted server, if any
	Debug               bool   // whether the Channels client logs to the browser's console
	Notice              string // warning to show, if any
}

// handler returns the handler for all requests.
func (a *app) handler() (http.Handler, error) {
	config := a.settings
	p := page{
		Channel: channel, Event: event,
		Key: config.Key, Cluster: config.Cluster, Socket: config.SocketURL, Debug: a.debug,
	}
	if config.Heroku && config.Embedded() {
		p.Notice = "PUSHER_URL is not set, so each dyno runs its own embedded server, and clicks don't reach pages connected to other dynos. Set PUSHER_URL to send all events through Pusher."
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
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	mux.Handle("POST /pusher", guard.RateLimit(a.log, config.RateLimit, guard.ClientAddress(config.TrustProxy), push))
	if a.channels != nil {
		mux.Handle("/app/", a.channels)
		mux.Handle("/apps/", a.channels)
	}
	return guard.Recover(a.log, guard.Headers(config.TrustProxy, config.ConnectOrigins(), guard.SameOrigin(a.log, mux))), nil
}

// servePush handles a click. It triggers the event even if the browser disconnects, because the
// event is also for the other pages.
func (a *app) servePush(w http.ResponseWriter, r *http.Request) {
	err := a.pusher.Trigger(channel, event, map[string]string{"message": message})
	a.respond(w, r, err)
}

// respond writes "ok" if err is nil. Otherwise, it explains err in the response and in the log.
func (a *app) respond(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		io.WriteString(w, "ok")
		return
	}
	status, text := pusherapi.Explain(err, serverName(a.settings))
	attrs := []any{"status", status, "server", cmp.Or(a.pusher.Host, "embedded server"), "reason", text, "error", pusherapi.Cause(err)}
	if id := r.Header.Get("X-Request-ID"); id != "" && a.settings.TrustProxy {
		attrs = append(attrs, "request_id", fmt.Sprintf("%.200s", id)) // Heroku's maximum length
	}
	a.log.Warn("click failed", attrs...)
	http.Error(w, text, status)
}

// serve serves the app until ctx is done or a signal arrives.
func (a *app) serve(ctx context.Context, stdout io.Writer) error {
	ctx = guard.StopContext(ctx)
	gcPercent := 400 // the heap is small without the embedded server
	if a.channels != nil {
		defer a.channels.Close()
		gcPercent = 100
	}
	guard.LimitMemory(gcPercent)
	if a.channels != nil && !channels.IsPublic(channel) {
		return fmt.Errorf("the embedded Channels server has public channels only, so pages can't subscribe to %s: set PUSHER_URL, fill in app.cfg, or rename the channel in main.go", channel)
	}
	handler, err := a.handler()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", a.settings.Addr)
	if err != nil {
		return listen.Explain(err, a.settings.Addr)
	}
	at := listener.Addr().(*net.TCPAddr)
	if page, _ := listen.URLs(at); page == "http://"+strings.Replace(a.settings.Host, "localhost", "127.0.0.1", 1)+"/" {
		listener.Close()
		return fmt.Errorf("%s points to this app itself: remove it to use the embedded server, or choose another address for this app with -addr %s", a.settings.Source, listen.NextAddr(a.settings.Addr))
	}
	if at.IP.IsLoopback() && !a.settings.TrustProxy {
		handler = guard.RejectRebinding(a.log, handler)
	}
	a.announce(at, stdout)
	return guard.Serve(ctx, a.log, listener, handler)
}

// trigger triggers the event in args, with defaults for missing parts, and prints the result.
func trigger(config settings.Settings, log *slog.Logger, args []string, stdout io.Writer) error {
	parts := []string{"test_channel", "my_event", `{"message":"hello world"}`}
	copy(parts, args)
	to, name, data := parts[0], parts[1], parts[2]
	switch {
	case slices.ContainsFunc(args, isFlag):
		return errors.New("put flags before trigger")
	case len(args) > len(parts):
		return errors.New("trigger accepts at most three arguments, CHANNEL, EVENT and DATA: put quotes around data that contains spaces")
	case config.Embedded():
		return errors.New("trigger needs credentials: set PUSHER_URL, or fill in app.cfg; without an account, use the PUSHER_URL that a running pusher-sample prints")
	}
	if err := newApp(config, log).pusher.Trigger(to, name, data); err != nil {
		_, text := pusherapi.Explain(err, serverName(config))
		return fmt.Errorf("%s (API host %s, credentials from %s, error: %w)", text, config.Host, config.Source, pusherapi.Cause(err))
	}
	fmt.Fprintf(stdout, "%s accepted the event %s on the channel %s.\n", config.Host, name, to)
	var fields map[string]any
	json.Unmarshal([]byte(data), &fields)
	if to != channel {
		fmt.Fprintf(stdout, "The page shows no alert for this event, because it subscribes only to %s.\n", channel)
	} else if _, ok := fields["message"].(string); !ok {
		fmt.Fprintln(stdout, `The page ignores this event: DATA must be a JSON object with a "message" string, such as '{"message":"hi"}'.`)
	} else if name != event {
		fmt.Fprintf(stdout, "The page shows an alert for this event only if a button in it has data-event=%q.\n", name)
	}
	return nil
}

// isFlag reports whether an argument looks like a flag. A negative number, which is JSON, does not.
func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && (arg[1] < '0' || arg[1] > '9')
}

// announce logs the address of the page and the settings. If the embedded server is in use and
// listens on a loopback address, announce also prints commands that use it from another terminal.
func (a *app) announce(at *net.TCPAddr, stdout io.Writer) {
	config := a.settings
	local, network := listen.URLs(at)
	page := slog.String("page", local)
	if config.Heroku {
		page, network = slog.Attr{}, nil // only Heroku's router reaches a dyno
	}
	a.log.Info("ready", page, "address", at.String(),
		"events", cmp.Or(config.Host, "embedded server"), "credentials", cmp.Or(config.Source, "none"),
		"cluster", config.Cluster, "rate_limit", config.RateLimit, "trust_proxy", config.TrustProxy, "debug", a.debug)
	if network != nil {
		a.log.Info("other devices on the network can open the page", "page", strings.Join(network, " "))
	}
	if a.channels != nil && at.IP.IsLoopback() {
		// The program shows no other secret. This one is generated at startup and is never logged.
		pusherURL := fmt.Sprintf("http://%s:%s@%s/apps/%s", config.Key, config.Secret, at, config.AppID)
		fmt.Fprint(stdout, "Open "+local+" in two browser windows.\n", terminalHint(runtime.GOOS, pusherURL, listen.NextAddr(at.String())))
	}
}

// terminalHint returns the commands that announce prints, for the usual shell on goos. They use the
// embedded server at pusherURL: the first triggers an event, the second starts an instance on addr.
func terminalHint(goos, pusherURL, addr string) string {
	set := "PUSHER_URL=" + pusherURL + " "
	if goos == "windows" {
		set = "$env:PUSHER_URL='" + pusherURL + "'; " // PowerShell
	}
	return "In another terminal, trigger an event, or start a second instance that shares this one's events:\n  " +
		set + "go run . trigger " + channel + " " + event + "\n  " + set + "go run . -addr " + addr + "\n"
}

// serverName returns the name of the Channels server for error messages. Visitors to the page see
// some of these messages, so the name never contains the host of a self-hosted server.
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

const usage = `pusher-sample serves a page with one button. A click alerts every open page through
Pusher Channels.

  pusher-sample [-addr HOST:PORT] [-debug]          serve the page
  pusher-sample trigger [CHANNEL [EVENT [DATA]]]    trigger one event and print the
                                                    result (default: test_channel
                                                    my_event {"message":"hello world"})

Settings are environment variables, or NAME=value lines in .env:

  PUSHER_URL          https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID, or the URL of
                      a self-hosted server; overrides app.cfg (see app.cfg.example).
                      Without either, the app uses its embedded server
  PUSHER_CLUSTER      the Channels app's cluster; overrides the cluster in PUSHER_URL or
                      app.cfg
  PUSHER_SOCKET_URL   ws[s]://HOST[:PORT] of a self-hosted server's WebSockets, if
                      browsers can't reach the host in PUSHER_URL or app.cfg
  PORT                listen on this port on all network interfaces; -addr overrides it
  RATE_LIMIT          max clicks per second per client address (default 1; 0 =
                      unlimited); a burst may be ten times as large
  TRUST_PROXY         set to 1 behind a reverse proxy that sets X-Forwarded-For and
                      X-Forwarded-Proto; always enabled on Heroku

Flags (put them before trigger):

  -addr HOST:PORT     listen on this address, by default 127.0.0.1:5000; without HOST,
                      on all network interfaces
  -debug              read templates/ and static/ from disk on each request, log the
                      embedded server's connections, subscriptions and events, and
                      make pusher-js log to the browser's console
`
