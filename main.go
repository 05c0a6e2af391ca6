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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Args, os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "pusher-sample:", err)
		os.Exit(1)
	}
}

// run runs the program with the command line args, which begins with the program's name, and the environment environ.
// Unless args contain a command or -h, it serves the page until ctx is done.
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
	case errors.Is(err, flag.ErrHelp), command == "help":
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
	config, err := settings.Load(environ, ".")
	for _, warning := range config.Warnings {
		log.Warn(warning)
	}
	if err != nil {
		return err
	}
	config.Addr = cmp.Or(*addr, config.Addr)
	a := newApp(config, *debugging, log)
	if command == "trigger" {
		return terminal.Trigger(a.pusher, config.Server, flags.Args(), channel, event, stdout)
	}
	return a.serve(ctx, args[0], stdout)
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
func newApp(config settings.Settings, debug bool, log *slog.Logger) *app {
	a := &app{settings: config, debug: debug, log: log}
	server, client := config.Server, pusherapi.NewClient()
	if server.Embedded() {
		a.channels = channels.New(server.AppID, server.Key, server.Secret, log)
		client = pusherapi.InProcess(a.channels)
	}
	a.pusher = &pusher.Client{
		AppID:      server.AppID,
		Key:        server.Key,
		Secret:     server.Secret,
		Host:       server.Host,
		Secure:     server.TLS,
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

// handler returns the handler for all requests to the address at.
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
	files, err := web.Files(bundled, a.debug)
	if err != nil {
		return nil, err
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
	if a.channels != nil {
		mux.Handle("/app/", a.channels)
		mux.Handle("/apps/", a.channels)
	}
	local := "" // the page's URL, if only this machine can open it
	if at.IP.IsLoopback() && proxies == 0 {
		local = terminal.PageURL(at)
	}
	return web.Protect(mux, server.ConnectOrigins(), proxies, local, a.log), nil
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
	status, text := pusherapi.Explain(err, server.Name)
	a.log.Warn("click failed", "status", status, "server", cmp.Or(server.Host, "embedded server"), "reason", text,
		"error", pusherapi.Cause(err))
	http.Error(w, text, status)
}

// checkChannel returns an error if pages can't subscribe to a channel of the embedded server.
func checkChannel(name string) error {
	if channels.IsPublic(name) {
		return nil
	}
	return fmt.Errorf("the embedded Channels server has public channels only, so pages can't subscribe to %s: set "+
		"PUSHER_URL, fill in app.cfg, or rename the channel in main.go", name)
}

// serve serves the app until ctx is done. The argument program is the program's name on the command line.
func (a *app) serve(ctx context.Context, program string, stdout io.Writer) error {
	if a.channels != nil {
		defer a.channels.Close()
		if err := checkChannel(channel); err != nil {
			return err
		}
	}
	if os.Getenv("GOMEMLIMIT") == "" && os.Getenv("GOGC") == "" {
		debug.SetMemoryLimit(400 << 20) // bytes; small machines have 512 MB
		if a.channels == nil {
			debug.SetGCPercent(400) // a tenth more clicks per second than with 100; the heap is small
		}
	}
	listener, err := terminal.Listen(a.settings.Addr)
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
