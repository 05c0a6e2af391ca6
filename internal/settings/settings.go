// Package settings reads the program's settings from the environment, .env and app.cfg. If a setting is invalid, Load
// returns a one-line error that says where it is, what is wrong and how to fix it. No error or warning contains any
// part of a file or a value, because someone may have pasted a secret in the wrong place.
package settings

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Settings are the program's settings. Don't log them as a whole: they contain the secret.
type Settings struct {
	Server    Server
	Addr      string  // address to listen on: ":PORT", or "127.0.0.1:5000" without PORT
	RateLimit float64 // clicks per second allowed to one client address; 0 means no limit
	Proxies   int     // how many reverse proxies are in front of the program
	Heroku    bool    // whether the program runs on a Heroku dyno
}

// Server describes the Channels server that delivers the events: Pusher, a self-hosted server, or the embedded one.
type Server struct {
	Name   string // for messages; visitors see some of them, so it never contains a host
	Source string // where the credentials are, such as "PUSHER_URL in .env line 1"; "" for the embedded server

	Host               string // host[:port] of the HTTP API; "" for the embedded server
	TLS                bool   // whether to call the HTTP API over HTTPS; always true for Pusher
	AppID, Key, Secret string // AppID and Key have only letters, digits, - and _

	Cluster   string // Pusher cluster; "" for other servers
	SocketURL string // ws[s]://host[:port][/prefix] of the server's WebSockets; "" for the embedded server
}

// Embedded reports whether the server runs inside this program, as it does if there are no credentials.
func (s Server) Embedded() bool { return s.Host == "" }

// Load reads the settings from environ, which has the form of [os.Environ], from .env in dir and, unless PUSHER_URL is
// set, from app.cfg in dir. environ overrides .env. An empty value counts as unset. The warnings, which Load returns
// even with an error, are about ignored lines and files.
func Load(environ []string, dir string) (s Settings, warnings []string, err error) {
	r := &reader{dir: dir, values: map[string]setting{}}
	source, err := r.read(environ)
	if err == nil {
		err = check(r.values)
	}
	if err != nil {
		return s, r.warnings, err
	}
	s = Settings{Server: newServer(r.values, source), Addr: "127.0.0.1:5000", Heroku: r.values["DYNO"].value != ""}
	if port := r.values["PORT"].value; port != "" {
		s.Addr = ":" + port
	}
	s.RateLimit, _ = strconv.ParseFloat(cmp.Or(r.values["RATE_LIMIT"].value, "1"), 64)
	proxies := r.values["TRUST_PROXY"].value
	if proxies == "" && s.Heroku {
		proxies = "1"
	}
	s.Proxies, _ = strconv.Atoi(proxies)
	if v := r.values["PUSHER_CLUSTER"]; v.value != "" && s.Server.Cluster == "" {
		r.warnf("%s is not used with %s: remove it, or check PUSHER_URL and app.cfg", v.place, s.Server.Name)
	}
	// Heroku's add-on sets PUSHER_SOCKET_URL for Pusher, too.
	if v := r.values["PUSHER_SOCKET_URL"]; v.value != "" && s.Server.Embedded() {
		r.warnf("%s is not used without PUSHER_URL or app.cfg: remove it, or set one of them", v.place)
	}
	return s, r.warnings, nil
}

// read reads all settings, including the parts of PUSHER_URL under their names in app.cfg. The source is where the
// credentials are, or "" if there are none.
func (r *reader) read(environ []string) (source string, err error) {
	if err := r.readFile(".env"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value != "" && (name == "DYNO" || slices.Contains(names[".env"], name)) {
			r.values[name] = setting{value, name}
		}
	}
	v := r.values["PUSHER_URL"]
	if v.value == "" {
		return r.readConfig()
	}
	if _, err := os.Stat(filepath.Join(r.dir, "app.cfg")); err == nil {
		r.warnf("app.cfg is ignored, because %s is set: remove one of them", v.place)
	}
	parts, problem := parsePusherURL(v.value)
	if problem != "" {
		return "", fmt.Errorf("%s %s", v.place, problem)
	}
	for name, value := range parts {
		r.values[name] = setting{value, name + " in " + v.place}
	}
	return v.place, nil
}

// readConfig reads app.cfg, if there is one.
func (r *reader) readConfig() (source string, err error) {
	err = r.readFile("app.cfg")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	for _, name := range []string{"ID", "KEY", "SECRET"} {
		if r.values[name].value == "" {
			return "", fmt.Errorf("app.cfg has no value for %s: it needs ID, KEY and SECRET, one per line, such as "+
				"KEY = 'abc123' (see app.cfg.example); to use the embedded server, remove the file", name)
		}
	}
	return "app.cfg", nil
}

// newServer returns the Channels server that valid settings describe, with credentials from source.
func newServer(values map[string]setting, source string) Server {
	if source == "" {
		return Server{Name: "the embedded Channels server", AppID: "1", Key: "local", Secret: rand.Text()}
	}
	s := Server{
		Name:   "the Channels server",
		Source: source,
		Host:   strings.ToLower(cmp.Or(values["HOST"].value, "api.pusher.com")),
		AppID:  values["ID"].value,
		Key:    values["KEY"].value,
		Secret: values["SECRET"].value,
	}
	if pusher := groups(pusherHost, s.Host); pusher != nil {
		s.Name = "Pusher"
		s.TLS = true // even if PUSHER_URL has http, as from old Heroku add-ons
		s.Cluster = cmp.Or(values["PUSHER_CLUSTER"].value, values["CLUSTER"].value, pusher[1], "mt1")
		s.Host = "api-" + s.Cluster + ".pusher.com"
		s.SocketURL = "wss://ws-" + s.Cluster + ".pusher.com"
		return s
	}
	s.TLS, _ = strconv.ParseBool(values["SECURE"].value)
	s.SocketURL = "ws://" + s.Host
	if s.TLS {
		s.SocketURL = "wss://" + s.Host
	}
	if socket := groups(socketURL, values["PUSHER_SOCKET_URL"].value); socket != nil {
		s.SocketURL = socket[1]
	}
	return s
}
