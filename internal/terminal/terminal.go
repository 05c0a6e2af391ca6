// Package terminal produces the program's output: the help, the settings and the page's address when the program is
// ready, and the result of the trigger command.
package terminal

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"

	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"
	"pusher-sample/internal/web"

	"github.com/pusher/pusher-http-go/v5"
)

// Usage is the help.
//
//go:embed usage.txt
var Usage string

// Ready logs the settings and the page's URLs. If the embedded server listens on a loopback address, Ready also prints
// commands that use it from another terminal: one triggers event on channel. The argument program is os.Args[0].
func Ready(config settings.Settings, at *net.TCPAddr, program, channel, event string, log *slog.Logger, stdout io.Writer) {
	server, source, page := config.Server, config.Server.Source, slog.String("page", pageURLs(at))
	if server.Embedded() {
		folder, _ := os.Getwd()
		source = "no PUSHER_URL in the environment or in .env, and no app.cfg, in " + folder
	}
	if config.Heroku {
		page = slog.Attr{} // only Heroku's router reaches a dyno
	}
	log.Info("ready", page, "address", at.String(), "events", cmp.Or(server.Host, "embedded server"), "credentials", source,
		"cluster", server.Cluster, "rate_limit", config.RateLimit, "trust_proxy", config.Proxies)
	if server.Embedded() && at.IP.IsLoopback() {
		// The program shows no other secret. This one is generated at startup and is never logged.
		url := fmt.Sprintf("http://%s:%s@%s/apps/%s", server.Key, server.Secret, at, server.AppID)
		start := command(runtime.GOOS, program, url)
		fmt.Fprintf(stdout, "Open %s in two browser windows.\n", pageURLs(at))
		fmt.Fprintln(stdout, "In another terminal, trigger an event, or start a second instance that shares this one's events:")
		fmt.Fprintf(stdout, "  %s trigger %s %s\n", start, channel, event)
		fmt.Fprintf(stdout, "  %s -addr %s\n", start, web.NextAddr(at.String()))
	}
}

// pageURLs returns the page's URL. If the program listens on all interfaces, it returns the URLs for this machine and
// for other devices (IPv4 only), separated by spaces. It never uses localhost: on macOS, AirPlay may listen on
// [::1]:5000.
func pageURLs(at *net.TCPAddr) string {
	if !at.IP.IsUnspecified() {
		return "http://" + at.String() + "/"
	}
	var urls []string
	addrs, _ := net.InterfaceAddrs()
	for _, addr := range addrs {
		if ip, _, err := net.ParseCIDR(addr.String()); err == nil && ip.To4() != nil {
			urls = append(urls, fmt.Sprintf("http://%s:%d/", ip, at.Port))
		}
	}
	return strings.Join(urls, " ")
}

// command returns the command that starts this program with a PUSHER_URL, for the usual shell on goos.
func command(goos, program, url string) string {
	switch {
	case strings.Contains(program, "go-build"): // a temporary file
		program = "go run ."
	case strings.Contains(program, " "):
		program = "'" + program + "'"
	}
	if goos == "windows" {
		return "$env:PUSHER_URL='" + url + "'; & " + program // PowerShell
	}
	return "PUSHER_URL=" + url + " " + program
}

// Trigger triggers the event in args (CHANNEL, EVENT and DATA, with defaults for missing ones) and prints the result.
// If the page may show no alert for that event, Trigger also prints which events cause one.
func Trigger(client *pusher.Client, server settings.Server, args []string, channel, event string, stdout io.Writer) error {
	parts := []string{"test_channel", "my_event", `{"message":"hello world"}`}
	copy(parts, args)
	to, name, data := parts[0], parts[1], parts[2]
	isFlag := func(arg string) bool { return strings.HasPrefix(arg, "-") }
	switch {
	case len(args) > len(parts), slices.ContainsFunc(args[:min(2, len(args))], isFlag):
		return errors.New("trigger accepts at most three arguments, CHANNEL, EVENT and DATA: put flags before trigger, " +
			"and quotes around data that contains spaces")
	case server.Embedded():
		return errors.New("trigger needs credentials: set PUSHER_URL, or fill in app.cfg; without an account, use the " +
			"PUSHER_URL that a running pusher-sample prints")
	}
	if err := client.Trigger(to, name, data); err != nil {
		_, text, cause := pusherapi.Explain(err, server.Name)
		return fmt.Errorf("%s (API host %s, credentials from %s, error: %w)",
			text, server.Host, server.Source, cause)
	}
	fmt.Fprintf(stdout, "%s accepted the event %s on the channel %s.\n", server.Host, name, to)
	var fields map[string]any
	json.Unmarshal([]byte(data), &fields)
	if _, ok := fields["message"].(string); !ok || to != channel || name != event {
		fmt.Fprintf(stdout, "The page shows an alert only for its buttons' events (%s, unless you have added others) on "+
			"%s, with data such as {\"message\":\"hi\"}.\n", event, channel)
	}
	return nil
}
