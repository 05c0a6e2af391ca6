// Pusher-sample serves a page with one button. A click sends POST /pusher, the server triggers event1 on channel1, and
// every open page shows the event's message in an alert. A click goes through static/app.js → servePush →
// pusher.Client.Trigger → Pusher (or the embedded server in internal/channels) → pusher-js in every page → alert.
package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"pusher-sample/internal/channels"
	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"
	"pusher-sample/internal/terminal"
	"pusher-sample/internal/web"

	"github.com/pusher/pusher-http-go/v5"
)

// A click triggers this event, and every open page shows its message in an alert.
const (
	channel = "channel1"
	event   = "event1"
	message = "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!"
)

//go:embed templates static
var bundled embed.FS

func main() {
	if err := run(context.Background(), os.Args, os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "pusher-sample:", err)
		os.Exit(1)
	}
}

// run runs the program. args is the command line, beginning with the program's name; environ is the environment.
// Unless args contains a command or -h, run serves the page until ctx is done, or a signal arrives.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("pusher-sample", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	addr := flags.String("addr", "", "")
	debugging := flags.Bool("debug", false, "")
	err := flags.Parse(args[1:])
	command := flags.Arg(0)
	if err == nil && command == "trigger" {
		err = flags.Parse(flags.Args()[1:]) // trigger -h
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, terminal.Usage)
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
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	config, warnings, err := settings.Load(environ, ".")
	for _, warning := range warnings {
		log.Warn(warning)
	}
	if err != nil {
		return err
	}
	a := newApp(config, *debugging, log)
	if command == "trigger" {
		return terminal.Trigger(a.pusher, config.Server, flags.Args(), channel, event, stdout)
	}
	if err := checkChannel(config.Server, channel); err != nil {
		return err
	}
	return a.serve(ctx, cmp.Or(*addr, config.Addr), args[0], stdout)
}

// app is the web app and contains everything that its handlers need.
type app struct {
	settings settings.Settings
	debug    bool
	pusher   *pusher.Client
	channels *channels.Server // the embedded server; nil unless it is in use
	log      *slog.Logger
}

// newApp returns an app that triggers events through the Channels server in config.
func newApp(config settings.Settings, debugging bool, log *slog.Logger) *app {
	a := &app{settings: config, debug: debugging, log: log}
	server, client := config.Server, pusherapi.NewClient()
	if server.Embedded() {
		a.channels = channels.New(server.AppID, server.Key, server.Secret, log)
		client = pusherapi.InProcess(a.channels)
	}
	a.pusher = &pusher.Client{
		AppID: server.AppID, Key: server.Key, Secret: server.Secret,
		Host: server.Host, Secure: server.TLS, HTTPClient: client,
	}
	return a
}

// serve serves the app on the address addr until ctx is done, or a signal arrives. The argument program is the
// program's name on the command line.
func (a *app) serve(ctx context.Context, addr, program string, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	embedded := a.settings.Server.Embedded()
	if embedded {
		defer a.channels.Close()
	}
	if os.Getenv("GOMEMLIMIT") == "" && os.Getenv("GOGC") == "" {
		debug.SetMemoryLimit(400 << 20) // bytes; small machines have 512 MB
		if !embedded {
			debug.SetGCPercent(400) // a tenth more clicks per second than with 100; the heap is small
		}
	}
	listener, err := web.Listen(addr)
	if err != nil {
		return err
	}
	at := listener.Addr().(*net.TCPAddr)
	handler, err := a.handler(at)
	if err != nil {
		return err
	}
	terminal.Ready(a.settings, at, program, channel, event, a.log, stdout)
	return web.Serve(ctx, listener, handler, a.log)
}

// checkChannel returns an error if pages can't subscribe to a channel of the server.
func checkChannel(server settings.Server, name string) error {
	if !server.Embedded() || channels.IsPublic(name) {
		return nil
	}
	return fmt.Errorf("the embedded Channels server supports public channels only, so pages can't subscribe to %s: set "+
		"PUSHER_URL, fill in app.cfg, or rename the channel in main.go", name)
}

// page is the data for templates/index.html.
type page struct {
	Channel, Event, Key string
	Cluster, Socket     string // see settings.Server
	Debug               bool   // whether the Channels client logs to the browser's console
	Notice              string // warning to show, if any
}

// handler returns the handler for all requests. The argument at is the address on which the server listens.
func (a *app) handler(at *net.TCPAddr) (http.Handler, error) {
	server, proxies := a.settings.Server, a.settings.Proxies
	p := page{
		Channel: channel, Event: event,
		Key: server.Key, Cluster: server.Cluster, Socket: server.SocketURL, Debug: a.debug,
	}
	if a.settings.Heroku && server.Embedded() {
		p.Notice = "PUSHER_URL is not set, so each dyno runs its own embedded server, and clicks don't reach pages " +
			"connected to other dynos. Set PUSHER_URL to send all events through Pusher."
		a.log.Warn(p.Notice)
	}
	var files fs.FS = bundled
	if a.debug {
		folder, err := os.OpenRoot(".") // symbolic links can't lead out of it
		if err != nil {
			return nil, err
		}
		files = folder.FS()
	}
	index, err := web.Page(files, p, a.debug)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", index)
	mux.Handle("GET /static/", web.Static(files))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	limit := web.RateLimit(a.settings.RateLimit, proxies, a.log)
	mux.Handle("POST /pusher", limit(a.servePush))
	if server.Embedded() {
		mux.Handle("/app/", a.channels)
		mux.Handle("/apps/", a.channels)
	}
	return web.Protect(mux, web.ConnectSources(server.SocketURL, server.Cluster), proxies, at, a.log), nil
}

// servePush handles a click. It triggers the event even if the browser disconnects, because the event is also for the
// other pages.
func (a *app) servePush(w http.ResponseWriter, r *http.Request) {
	err := a.pusher.Trigger(channel, event, map[string]string{"message": message})
	a.respond(w, err)
}

// respond writes "ok" if err is nil. Otherwise, it explains err in the response and in the log.
func (a *app) respond(w http.ResponseWriter, err error) {
	server := a.settings.Server
	if err == nil {
		a.log.Debug("click accepted", "server", server.Name)
		io.WriteString(w, "ok")
		return
	}
	status, text, cause := pusherapi.Explain(err, server.Name)
	a.log.Warn("click failed", "status", status, "host", server.Host, "reason", text, "error", cause)
	http.Error(w, text, status)
}
