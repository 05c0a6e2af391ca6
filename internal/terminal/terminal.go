// Package terminal contains what the program prints: the help, the reason why it can't listen on an address, its
// settings and the address of the page when it is ready, and the result of the trigger command.
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
	"strconv"
	"strings"
	"syscall"

	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"

	"github.com/pusher/pusher-http-go/v5"
)

// Usage is the help.
//
//go:embed usage.txt
var Usage string

// Listen listens on addr. An error says why that failed and how to fix it.
func Listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		err = explain(err, addr)
	}
	return listener, err
}

func explain(err error, addr string) error {
	// The numbers are Windows error codes; there, the constants in package syscall have invented values.
	switch errno, _ := errors.AsType[syscall.Errno](err); errno {
	case syscall.EADDRINUSE, 10048:
		return fmt.Errorf("%s is already in use by another program: stop it, or choose another address with -addr %s",
			addr, nextAddr(addr))
	case syscall.EACCES, 10013:
		return fmt.Errorf("no permission to listen on %s: choose another port with -addr, such as -addr 127.0.0.1:8080", addr)
	default:
		return fmt.Errorf("can't listen on %s (%w): set -addr to HOST:PORT with an address of this machine, such as "+
			"127.0.0.1:5001, or to :5000 for all network interfaces", addr, err)
	}
}

// nextAddr returns addr with the next port (1 after 65535). The port may be a name, such as http.
func nextAddr(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := net.LookupPort("tcp", port)
	return net.JoinHostPort(host, strconv.Itoa(n%65535+1))
}

// PageURL returns the URL of the page for this machine. It never has the name localhost: on macOS, AirPlay may listen
// on [::1]:5000.
func PageURL(at *net.TCPAddr) string {
	if at.IP.IsUnspecified() {
		at = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: at.Port}
	}
	return "http://" + at.String() + "/"
}

// networkURLs returns the URLs of the page for other devices (IPv4 only), separated by spaces.
func networkURLs(port int) string {
	var urls []string
	addrs, _ := net.InterfaceAddrs()
	for _, addr := range addrs {
		if ip, _, err := net.ParseCIDR(addr.String()); err == nil && ip.To4() != nil && ip.IsGlobalUnicast() {
			urls = append(urls, fmt.Sprintf("http://%s:%d/", ip, port))
		}
	}
	return strings.Join(urls, " ")
}

// Ready logs the settings and the address of the page. If the embedded server listens on a loopback address, Ready also
// prints commands that use it from another terminal: one triggers event on channel. The argument program is os.Args[0].
func Ready(config settings.Settings, at *net.TCPAddr, program, channel, event string, log *slog.Logger, stdout io.Writer) {
	server, source, page := config.Server, config.Server.Source, slog.String("page", PageURL(at))
	if server.Embedded() {
		folder, _ := os.Getwd()
		source = "none in the environment, or in .env or app.cfg in " + folder
	}
	if config.Heroku {
		page = slog.Attr{} // only Heroku's router reaches a dyno
	}
	log.Info("ready", page, "address", at.String(), "events", cmp.Or(server.Host, "embedded server"), "credentials", source,
		"cluster", server.Cluster, "rate_limit", config.RateLimit, "trust_proxy", config.Proxies)
	if at.IP.IsUnspecified() && !config.Heroku {
		log.Info("other devices on the network can open the page", "page", networkURLs(at.Port))
	}
	if server.Embedded() && at.IP.IsLoopback() {
		// The program shows no other secret. This one is generated at startup and is never logged.
		url := fmt.Sprintf("http://%s:%s@%s/apps/%s", server.Key, server.Secret, at, server.AppID)
		command := command(runtime.GOOS, program, url)
		fmt.Fprintf(stdout, "Open %s in two browser windows.\nIn another terminal, trigger an event, or start a second "+
			"instance that shares this one's events:\n  %s trigger %s %s\n  %[2]s -addr %[5]s\n",
			PageURL(at), command, channel, event, nextAddr(at.String()))
	}
}

// command returns the command that starts this program with a PUSHER_URL, for the usual shell on goos.
func command(goos, program, url string) string {
	switch {
	case strings.Contains(program, "go-build"): // a temporary file
		program = "go run ."
	case strings.Contains(program, " ") && goos == "windows":
		program = "& '" + program + "'"
	case strings.Contains(program, " "):
		program = "'" + program + "'"
	}
	if goos == "windows" {
		return "$env:PUSHER_URL='" + url + "'; " + program // PowerShell
	}
	return "PUSHER_URL=" + url + " " + program
}

// Trigger triggers the event in args (CHANNEL, EVENT and DATA, with defaults for missing ones) and prints the result.
// It says so if pages, which expect event on channel, show no alert for it.
func Trigger(client *pusher.Client, server settings.Server, args []string, channel, event string, stdout io.Writer) error {
	parts := []string{"test_channel", "my_event", `{"message":"hello world"}`}
	copy(parts, args)
	to, name, data := parts[0], parts[1], parts[2]
	switch {
	case slices.ContainsFunc(args, isFlag):
		return errors.New("put flags before trigger")
	case len(args) > len(parts):
		return errors.New("trigger accepts at most three arguments, CHANNEL, EVENT and DATA: put quotes around data that " +
			"contains spaces")
	case server.Embedded():
		return errors.New("trigger needs credentials: set PUSHER_URL, or fill in app.cfg; without an account, use the " +
			"PUSHER_URL that a running pusher-sample prints")
	}
	if err := client.Trigger(to, name, data); err != nil {
		_, text := pusherapi.Explain(err, server.Name)
		return fmt.Errorf("%s (API host %s, credentials from %s, error: %w)", text, server.Host, server.Source, pusherapi.Cause(err))
	}
	fmt.Fprintf(stdout, "%s accepted the event %s on the channel %s.\n", server.Host, name, to)
	var fields map[string]any
	json.Unmarshal([]byte(data), &fields)
	if to != channel {
		fmt.Fprintf(stdout, "The page shows no alert for this event, because it subscribes only to %s.\n", channel)
	} else if _, ok := fields["message"].(string); !ok {
		fmt.Fprintln(stdout, `The page ignores this event: DATA must be a JSON object with a "message" string, such as `+
			`'{"message":"hi"}'.`)
	} else if name != event {
		fmt.Fprintf(stdout, "The page shows an alert for this event only if a button in it has data-event=%q.\n", name)
	}
	return nil
}

// isFlag reports whether an argument looks like a flag. A negative number, which is JSON, does not.
func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && (arg[1] < '0' || arg[1] > '9')
}
