// Package settings reads the program's settings from the environment, .env and app.cfg. They
// determine, for example, where events go and at which address the app listens. If a
// setting is invalid, Load returns a one-line error that says where the setting is, what is wrong
// with it and how to fix it. No error or warning contains any part of a value, because someone may
// have pasted a secret in the wrong place.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Settings are the program's settings. Don't log them as a whole: they contain the secret.
type Settings struct {
	// Source says where the credentials are: "PUSHER_URL", "PUSHER_URL in .env" or "app.cfg",
	// followed by " and PUSHER_CLUSTER" if that selects Pusher's cluster. Without credentials,
	// Source is empty and the fields up to SocketURL have their zero values.
	Source string

	AppID, Key, Secret string // AppID and Key have only letters, digits, - and _

	Host      string // host[:port] of the HTTP API
	Secure    bool   // call the HTTP API over HTTPS: always true for Pusher
	Cluster   string // Pusher cluster for the page; usually empty for a self-hosted server
	SocketURL string // ws[s]://host[:port][/prefix] of a self-hosted server, for the page

	Addr       string   // address to listen on: ":PORT", or "127.0.0.1:5000" without PORT
	RateLimit  float64  // clicks per second allowed to one client address; 0 means no limit
	TrustProxy bool     // a reverse proxy sets X-Forwarded-For and X-Forwarded-Proto
	Heroku     bool     // the program runs on a Heroku dyno
	Warnings   []string // messages about ignored settings and files
}

// Embedded reports whether events go to the embedded server, because there are no credentials.
func (s Settings) Embedded() bool { return s.Source == "" }

// ConnectOrigins returns the origins to which the page connects, besides its own. With Pusher, they
// include the origin of SockJS, which pusher-js uses if WebSockets are blocked.
func (s Settings) ConnectOrigins() []string {
	switch {
	case s.Embedded():
		return nil
	case s.SocketURL == "":
		return []string{"wss://ws-" + s.Cluster + ".pusher.com", "https://sockjs-" + s.Cluster + ".pusher.com"}
	default:
		origin := originPattern.FindString(s.SocketURL)
		if strings.ContainsAny(origin, "[_") { // a policy can't name such a host, so allow all hosts
			origin, _, _ = strings.Cut(origin, "//")
		}
		return []string{origin}
	}
}

// Load reads the settings from environ, which has the form of [os.Environ], from .env in dir and,
// unless PUSHER_URL is set, from app.cfg in dir. environ overrides .env. An empty value counts as
// unset. If Load returns an error, only the Warnings are valid.
func Load(environ []string, dir string) (Settings, error) {
	s := Settings{Addr: "127.0.0.1:5000"}
	values := map[string]setting{}
	if err := s.readFile(values, dir, ".env"); err != nil {
		return s, err
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value != "" && s.identify(setting{name: name}) != "" {
			values[name] = setting{name: name, value: value}
		}
		s.Heroku = s.Heroku || name == "DYNO" && value != ""
	}
	if err := cmp.Or(s.readCredentials(values, dir), check(values)); err != nil {
		return s, err
	}

	if port := values["PORT"].value; port != "" {
		s.Addr = ":" + port
	}
	s.RateLimit, _ = strconv.ParseFloat(cmp.Or(values["RATE_LIMIT"].value, "1"), 64)
	s.TrustProxy = s.Heroku || isTrue(values["TRUST_PROXY"].value)
	if s.Embedded() {
		return s, nil
	}
	s.AppID, s.Key, s.Secret = values["ID"].value, values["KEY"].value, values["SECRET"].value
	err := s.resolve(values)
	return s, err
}

// readCredentials sets Source and adds the credentials to values: the parts of PUSHER_URL, under
// their names in app.cfg, or the settings in app.cfg. It adds warnings about ignored settings.
func (s *Settings) readCredentials(values map[string]setting, dir string) error {
	_, err := os.Lstat(filepath.Join(dir, "app.cfg"))
	if v := values["PUSHER_URL"]; v.value != "" {
		s.Source = setting{name: v.name, file: v.file}.String()
		if err == nil {
			s.Warnings = append(s.Warnings, "app.cfg is ignored, because "+s.Source+" is set: remove one of them")
		}
		if part := urlPattern.FindStringSubmatch(v.value); part != nil { // if nil, check fails
			part[2], _ = url.PathUnescape(part[2])
			for i, name := range []string{"KEY", "SECRET", "HOST", "ID"} {
				values[name] = setting{name: name, value: part[i+1], file: v.String()}
			}
		}
		return nil
	}
	if errors.Is(err, os.ErrNotExist) {
		for _, name := range []string{"PUSHER_CLUSTER", "PUSHER_SOCKET_URL"} {
			if v := values[name]; v.value != "" {
				s.Warnings = append(s.Warnings, v.String()+" is ignored, because there is neither a PUSHER_URL nor an app.cfg: add one of them, or remove "+name)
			}
		}
		return nil
	}

	s.Source = "app.cfg"
	if err := s.readFile(values, dir, "app.cfg"); err != nil {
		return err
	}
	missing := slices.DeleteFunc([]string{"ID", "KEY", "SECRET"}, func(name string) bool {
		return values[name].value != ""
	})
	if len(missing) > 0 {
		return fmt.Errorf("app.cfg has no value for %s: it needs ID, KEY and SECRET, one per line, such as KEY = 'abc123' (see app.cfg.example); to use the embedded server, remove the file", strings.Join(missing, ", "))
	}
	return nil
}

// resolve sets Host, Secure, Cluster and SocketURL, and may add PUSHER_CLUSTER to Source.
func (s *Settings) resolve(values map[string]setting) error {
	host, socket, override := values["HOST"], values["PUSHER_SOCKET_URL"], values["PUSHER_CLUSTER"].value
	s.Cluster = cmp.Or(override, values["CLUSTER"].value)
	s.Host = strings.ToLower(cmp.Or(host.value, apiHost(cmp.Or(s.Cluster, "mt1"))))
	s.Secure = isTrue(values["SECURE"].value) || isHTTPS(values["PUSHER_URL"].value)
	name := hostOf(s.Host)
	if !isPusher(name) {
		address := "ws://" + s.Host
		if s.Secure {
			address = "wss://" + s.Host
		}
		part := socketPattern.FindStringSubmatch(cmp.Or(socket.value, address))
		if part == nil || !isHost(part[2]) {
			return fmt.Errorf("%s must have the form wss://HOST[:PORT][/PREFIX] (or ws://), without quotes, spaces, user name or #: set it to the address at which browsers reach the WebSockets of the server in PUSHER_URL or app.cfg, or remove it", socket)
		}
		s.SocketURL = strings.ToLower(part[1]+part[2]) + part[3]
		return nil
	}
	s.Secure = true // even if PUSHER_URL has http, as from old Heroku add-ons
	s.Host = strings.TrimSuffix(s.Host, ":80")
	own := "" // the cluster that the host names
	if m := apiPattern.FindStringSubmatch(name); m != nil {
		own = cmp.Or(m[1], "mt1")
	}
	s.Cluster = cmp.Or(s.Cluster, own)
	switch {
	case s.Cluster == "":
		return fmt.Errorf("%s names a Pusher host without a cluster: use api-CLUSTER.pusher.com (such as api-eu.pusher.com), or set PUSHER_CLUSTER", host)
	case override == "" && own != "" && own != s.Cluster:
		return fmt.Errorf("%s names a different cluster than CLUSTER: remove HOST, which Pusher's clusters don't need, or correct one of them", host)
	case own != s.Cluster:
		s.Host = apiHost(s.Cluster)
	}
	if override != "" {
		s.Source += " and PUSHER_CLUSTER"
	}
	return nil
}

func apiHost(cluster string) string { return "api-" + cluster + ".pusher.com" }

const (
	urlForm = "; the form is https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"
	appKeys = `https://dashboard.pusher.com, in your app, under "App Keys"`

	// authority matches KEY:SECRET@HOST in a URL. SECRET must be percent-encoded where necessary.
	authority = `([^:/?#@]+):((?:[\w.~!$&'()*+,;=:-]|%[[:xdigit:]]{2})+)@([^/?#@]+)`
	perApp    = "ID KEY SECRET CLUSTER PUSHER_CLUSTER" // the docs show placeholders for these
)

// rules say which values are invalid. An error consists of the value's place and the rule's text.
// ID and KEY may not contain characters that are special in URLs, because pusher-http-go and
// pusher-js put them into URLs unescaped.
var rules = []struct {
	names   string // of the settings that the rule applies to, separated by spaces
	invalid func(value string) bool
	text    string
}{
	{"PUSHER_URL", quoted, "is in quotes: remove them" + urlForm},
	{"PUSHER_URL", matches(`[<>]`), "has < or > in it: remove the < >, which only mark placeholders" + urlForm},
	{"PUSHER_URL", matches(`[^!-~]`), "has a space, a line break or a non-ASCII character in it, perhaps at its end: remove it, or percent-encode it if it is part of the secret" + urlForm},
	{"PUSHER_URL", not(matches(`^(?i:https?)://`)), "must begin with https:// (or http://)" + urlForm},
	{"PUSHER_URL", matches(`^\w+://(?i:dashboard\.pusher\.com)`), `is the address of Pusher's dashboard, not of its API: use the values on that page, under "App Keys"` + urlForm},
	{"PUSHER_URL", not(matches(`^\w+://` + authority + `([/?#]|$)`)), "must have KEY:SECRET@HOST after the ://, with special characters percent-encoded (% as %25, / as %2F, @ as %40, # as %23, ? as %3F)" + urlForm},
	{"PUSHER_URL", not(urlPattern.MatchString), "must end with /apps/ID right after the host, where ID has only letters, digits, - and _" + urlForm},

	{perApp, placeholder, "must be your app's own value, not the placeholder: copy it from " + appKeys + "; without an account, remove app.cfg and PUSHER_URL, or use the PUSHER_URL that a running pusher-sample prints"},
	{"HOST", matches(`^(?i:api-cluster\.pusher\.com)$`), "has the placeholder CLUSTER: replace it with your app's cluster, such as eu, from " + appKeys},
	{perApp, matches(`^<.*>$`), "must not be in < >: remove the < > and use your app's own value, from " + appKeys},
	{"ID KEY", matches(`[^\w-]`), "must consist of letters, digits, - and _: copy it again, without surrounding characters"},
	{"SECRET", quoted, `must not begin or end with a quote: remove the quotes or, in app.cfg, put the value in one pair of plain quotes, '…' or "…"`},
	{"SECRET", matches(`[^\pL\pM\pN\pP\pS]`), "must not contain a space, a line break or an invisible character: copy it again, without surrounding characters"},
	{"CLUSTER PUSHER_CLUSTER", matches(`[^a-z0-9-]|^(api|ws)?-|-$`), "is not the name of a cluster: use the short name that the dashboard shows, in lower case, such as eu or mt1"},
	{"HOST", not(isHost), "is not a host: use only a host or host:port, such as localhost:6001, without a scheme, path or spaces"},

	{"PORT", not(isPort), "is not a port: set it to a number from 0 (any free port) to 65535, such as 8080, or remove it"},
	{"RATE_LIMIT", not(isRate), "is not a rate: set it to the max clicks per second per client address, from 0 (unlimited) to 1000000, or remove it for the default, 1"},
	{"SECURE TRUST_PROXY", not(matches(`^(?i:true|1|yes|on|false|0|no|off)$`)), "is neither true nor false: set it to 1 or 0, True or False, or remove it"},
}

var (
	placeholder = matches(`^((?i:your[-_](app[-_])?(id|key|secret|cluster))|(APP_)?(ID|KEY|SECRET|CLUSTER))$`)
	quoted      = matches("^[\"'`“”‘’]|[\"'`“”‘’]$")
	isTrue      = matches(`^(?i:true|1|yes|on)$`)
	isHTTPS     = matches(`^(?i:https):`)
	isPusher    = matches(`(^|\.)pusher(app)?\.com$`)

	// The groups are, in urlPattern: key, secret, host, ID; in hostPattern: host, IPv6 address,
	// port; in apiPattern: cluster; in socketPattern: ws:// or wss://, host, path prefix.
	urlPattern    = regexp.MustCompile(`^\w+://` + authority + `/apps/([\w-]+)/?$`)
	hostPattern   = regexp.MustCompile(`^([\w-]+(?:\.[\w-]+)*|(\[[0-9a-f:.]+\]))(?::([1-9][0-9]*))?$`)
	apiPattern    = regexp.MustCompile(`^api(?:-([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.pusher|\.pusher(?:app)?)\.com$`)
	socketPattern = regexp.MustCompile(`^((?i:wss?)://)([^/?#@]+)((?:/[\w~-][\w.~-]*)*?)(?:/app/[^/?#]*(?:\?[^#]*)?)?/?$`)
	originPattern = regexp.MustCompile(`^wss?://[^/]+`)
)

func matches(pattern string) func(string) bool { return regexp.MustCompile(pattern).MatchString }

func not(valid func(string) bool) func(string) bool {
	return func(value string) bool { return !valid(value) }
}

// check returns an error for the first broken rule, naming the settings that break it.
func check(values map[string]setting) error {
	for _, rule := range rules {
		var places []string
		for _, name := range strings.Fields(rule.names) {
			if v := values[name]; v.value != "" && rule.invalid(v.value) {
				places = append(places, v.String())
			}
		}
		if places != nil {
			return fmt.Errorf("%s %s", strings.Join(places, ", "), rule.text)
		}
	}
	return nil
}

func isPort(value string) bool {
	_, err := strconv.ParseUint(value, 10, 16)
	return err == nil
}

func isRate(value string) bool {
	rate, err := strconv.ParseFloat(value, 64)
	return err == nil && rate >= 0 && rate <= 1e6 // false for NaN
}

func isHost(value string) bool { return hostOf(value) != "" }

// hostOf returns the host of a host[:port], in lower case: a name, an IPv4 address, or an IPv6
// address in brackets. It returns "" if hostport is invalid.
func hostOf(hostport string) string {
	m := hostPattern.FindStringSubmatch(strings.ToLower(hostport))
	if m == nil {
		return ""
	}
	// Check what the pattern can't: an IPv6 address's syntax and a port's range.
	if _, err := netip.ParseAddrPort(cmp.Or(m[2], "[::1]") + ":" + cmp.Or(m[3], "1")); err != nil {
		return ""
	}
	return m[1]
}
