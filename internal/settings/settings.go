// Package settings reads the program's settings from the environment, .env and
// app.cfg: where events go, where the page connects, which address to listen on.
//
// An invalid setting is an error of one line that says where it is, what is wrong
// with it and how to fix it. No error or warning contains any part of a value,
// because a secret can be pasted in the wrong place.
package settings

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Settings are the program's settings. They contain the secret: don't log them whole.
type Settings struct {
	// Source says where the credentials are: "PUSHER_URL", "PUSHER_URL in .env" or
	// "app.cfg", followed by "and PUSHER_CLUSTER" if that sets the cluster. It is
	// empty if there are none; the fields up to SocketURL then have their zero values.
	Source string

	AppID, Key, Secret string // AppID and Key have only letters, digits, - and _

	Host      string // host[:port] of the HTTP API
	Secure    bool   // call the HTTP API over HTTPS: always true for Pusher
	Cluster   string // Pusher cluster for the page; mostly empty for a self-hosted server
	SocketURL string // ws[s]://host[:port][/prefix] of a self-hosted server, for the page

	Addr       string   // address to listen on: ":PORT", or "127.0.0.1:5000" without PORT
	RateLimit  float64  // clicks per second allowed to one client address; 0 means no limit
	TrustProxy bool     // a reverse proxy sets X-Forwarded-For and X-Forwarded-Proto
	Heroku     bool     // the program runs on a Heroku dyno
	Warnings   []string // sentences about settings that are ignored
}

// Embedded reports whether there are no credentials, so that events go to the
// embedded server.
func (s Settings) Embedded() bool { return s.Source == "" }

// Connect returns the origins, apart from its own, that the page connects to: for
// WebSockets and, for Pusher, their fallback.
func (s Settings) Connect() []string {
	switch {
	case s.Embedded():
		return nil
	case s.SocketURL == "":
		return []string{"wss://ws-" + s.Cluster + ".pusher.com", "https://sockjs-" + s.Cluster + ".pusher.com"}
	}
	u, err := url.Parse(s.SocketURL)
	if err != nil {
		return nil
	}
	return []string{u.Scheme + "://" + u.Host}
}

const (
	urlForm = "https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"
	appKeys = `https://dashboard.pusher.com, in your app, under "App Keys"`
)

var (
	envNames = []string{"PUSHER_URL", "PUSHER_CLUSTER", "PUSHER_SOCKET_URL", "PORT", "RATE_LIMIT", "TRUST_PROXY"}
	cfgNames = []string{"ID", "KEY", "SECRET", "CLUSTER", "HOST", "SECURE"}

	// pusher-http-go puts ID and key into the request's URL unescaped, and so does
	// pusher-js with the key: neither may contain characters that have a meaning in URLs.
	notID      = regexp.MustCompile(`[^A-Za-z0-9_-]`)
	invisible  = regexp.MustCompile(`[^\pL\pM\pN\pP\pS]`)
	outerQuote = regexp.MustCompile("^[\"'`“”‘’]|[\"'`“”‘’]$")
	bracketed  = regexp.MustCompile(`^<.*>$`)

	placeholder    = regexp.MustCompile(`^((?i:your[-_](app[-_])?(id|key|secret))|APP_ID|APP_KEY|APP_SECRET|ID|KEY|SECRET)$`)
	clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	hostPattern    = regexp.MustCompile(`^([a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*|\[[0-9a-f:.]+\])(?::0*([1-9][0-9]{0,4}))?$`)
	pathPattern    = regexp.MustCompile(`^/apps/([A-Za-z0-9_-]+)/?$`)
	socketPattern  = regexp.MustCompile(`^((?i)wss?)://([^/?#@]+)((?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*?)(?:/app/[^/?#]*(?:\?[^#]*)?)?/?$`)
)

// Load reads the settings from environ, in the form of [os.Environ], from .env in dir,
// which environ overrides, and from app.cfg in dir, unless PUSHER_URL is set. An empty
// value counts as unset. If Load returns an error, only the Warnings are valid.
func Load(environ []string, dir string) (Settings, error) {
	s := Settings{Addr: "127.0.0.1:5000", RateLimit: 1}
	env, err := s.readFile(dir, ".env")
	if err != nil {
		return s, err
	}
	if env == nil {
		env = map[string]setting{}
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		known, warning := identify(setting{name: name})
		switch {
		case value == "":
		case known != "":
			env[known] = setting{name: known, value: value}
		case warning != "":
			s.Warnings = append(s.Warnings, warning)
		case name == "DYNO":
			s.Heroku = true
		}
	}

	if v := env["PORT"]; v.value != "" {
		port, err := strconv.ParseUint(v.value, 10, 16)
		if err != nil {
			return s, fmt.Errorf("%s is not a port: set it to a number from 0 (any free port) to 65535, such as 8080, or remove it", v)
		}
		s.Addr = fmt.Sprintf(":%d", port)
	}
	if v := env["RATE_LIMIT"]; v.value != "" {
		s.RateLimit, err = strconv.ParseFloat(v.value, 64)
		if err != nil || !(s.RateLimit >= 0 && s.RateLimit <= 1e6) { // NaN fails both
			return s, fmt.Errorf("%s is not a rate: set it to the max clicks per second per client address, from 0 (unlimited) to 1000000, or remove it for the default, 1", v)
		}
	}
	if s.TrustProxy, err = env["TRUST_PROXY"].isTrue(); err != nil {
		return s, err
	}
	s.TrustProxy = s.TrustProxy || s.Heroku
	if err := checkCluster(env["PUSHER_CLUSTER"]); err != nil {
		return s, err
	}

	host := env["PUSHER_URL"]
	if host.value != "" {
		s.Source = setting{name: host.name, file: host.file}.String()
		if _, err := os.Stat(filepath.Join(dir, "app.cfg")); err == nil {
			s.Warnings = append(s.Warnings, "app.cfg is ignored, because "+s.Source+" is set: remove one of them")
		}
		err = s.useURL(host)
	} else {
		var cfg map[string]setting
		cfg, err = s.readFile(dir, "app.cfg")
		if err != nil || cfg == nil {
			return s, err
		}
		s.Source, host = "app.cfg", cfg["HOST"]
		err = s.useConfig(cfg)
	}
	if err != nil {
		return s, err
	}
	return s, s.resolve(host, env["PUSHER_CLUSTER"], env["PUSHER_SOCKET_URL"])
}

// checkCluster rejects upper case and host names instead of converting them: either is a
// sign that something else was pasted.
func checkCluster(v setting) error {
	if v.value == "" || clusterPattern.MatchString(v.value) && !strings.HasPrefix(v.value, "api-") && !strings.HasPrefix(v.value, "ws-") {
		return nil
	}
	return fmt.Errorf("%s is not the name of a cluster: use the short name that the dashboard shows, in lower case, such as eu or mt1", v)
}

// useURL sets the credentials and the API's address from a PUSHER_URL.
func (s *Settings) useURL(v setting) error {
	invalid := func(problem string) error {
		return fmt.Errorf("%s %s; the form is %s", v, problem, urlForm)
	}
	switch scheme, _, ok := strings.Cut(v.value, "://"); {
	case outerQuote.MatchString(v.value):
		return invalid("is in quotes: remove them")
	case strings.ContainsAny(v.value, "<>"):
		return invalid("has < or > in it: remove the < >, which only mark placeholders")
	case strings.ContainsFunc(v.value, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return invalid("has a space, a line break or a non-ASCII character in it, perhaps at its end: remove it, or percent-encode it if it belongs to the secret")
	case !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https"):
		return invalid("must begin with https:// (or http://)")
	}
	u, err := url.Parse(v.value) // err is dropped: it quotes the URL
	at := strings.Count(v.value, "@")
	if err != nil || at > 1 || at == 1 && u.User == nil {
		return invalid("can't be parsed: percent-encode special characters in the key and the secret (% as %25, / as %2F, @ as %40, # as %23, ? as %3F)")
	}
	secret, _ := u.User.Password()
	path := pathPattern.FindStringSubmatch(u.EscapedPath())
	switch host, ok := hostOf(u.Host); {
	case !ok:
		return invalid("has no valid host[:port] after the @")
	case host == "dashboard.pusher.com":
		return invalid(`is the address of Pusher's dashboard, not of its API: build it from the values on that page, under "App Keys"`)
	case u.User.Username() == "" || secret == "":
		return invalid("has no KEY:SECRET@, or only one of the two, before the host")
	case path == nil || strings.ContainsAny(v.value, "?#"):
		return invalid("must end with /apps/ID right after the host, where ID has only letters, digits, - and _")
	}
	s.Host, s.Secure = strings.ToLower(u.Host), u.Scheme == "https"

	part := func(name, value string) setting { return setting{name: name, value: value, file: v.String()} }
	return s.useCredentials(part("the app ID", path[1]), part("the key", u.User.Username()), part("the secret", secret))
}

// useConfig sets the credentials and the API's address from app.cfg.
func (s *Settings) useConfig(cfg map[string]setting) error {
	var missing []string
	for _, name := range []string{"ID", "KEY", "SECRET"} {
		if cfg[name].value == "" {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return fmt.Errorf("app.cfg has no value for %s: it needs ID, KEY and SECRET, one per line, such as KEY = 'abc123' (see app.cfg.example); to use the embedded server, remove the file", strings.Join(missing, ", "))
	}
	secure, err := cfg["SECURE"].isTrue()
	if err := cmp.Or(s.useCredentials(cfg["ID"], cfg["KEY"], cfg["SECRET"]), checkCluster(cfg["CLUSTER"]), err); err != nil {
		return err
	}
	host := cfg["HOST"]
	s.Cluster, s.Host, s.Secure = cfg["CLUSTER"].value, strings.ToLower(host.value), secure
	if host.value == "" {
		s.Cluster = cmp.Or(s.Cluster, "mt1")
		s.Host = apiHost(s.Cluster)
	} else if _, ok := hostOf(host.value); !ok {
		return fmt.Errorf("%s is not a host: use only a host or host:port, such as localhost:6001, without http:// and without a path", host)
	}
	return nil
}

// useCredentials sets the credentials, unless one is obviously wrong. An error lists all
// credentials that have the same fault.
func (s *Settings) useCredentials(id, key, secret setting) error {
	all := []setting{id, key, secret}
	for _, fault := range []struct {
		in      []setting
		pattern *regexp.Regexp
		text    string
	}{
		{all, placeholder, "must be your app's own value, not the placeholder: copy it from " + appKeys},
		{all, bracketed, "must not be in < >: remove the < > and use your app's own value, from " + appKeys},
		{all[:2], notID, "must consist of letters, digits, - and _: copy it again, without anything around it"},
		{all[2:], outerQuote, `must not begin or end with a quote: put it in one pair of plain quotes, '…' or "…", or in none`},
		{all[2:], invisible, "must not contain a space, a line break or an invisible character: copy it again, without anything around it"},
	} {
		var places []string
		for _, v := range fault.in {
			if fault.pattern.MatchString(v.value) {
				places = append(places, v.String())
			}
		}
		if places != nil {
			return fmt.Errorf("%s %s", strings.Join(places, ", "), fault.text)
		}
	}
	s.AppID, s.Key, s.Secret = id.value, key.value, secret.value
	return nil
}

// resolve sets the addresses of the API and of the page's WebSocket, and the cluster, from
// s.Host. Errors name host, the setting that s.Host came from.
func (s *Settings) resolve(host, cluster, socket setting) error {
	name, _ := hostOf(s.Host)
	if !isPusher(name) {
		s.Cluster = cmp.Or(cluster.value, s.Cluster)
		if socket.value != "" {
			var err error
			s.SocketURL, err = socketURL(socket)
			return err
		}
		s.SocketURL = "ws://" + s.Host
		if s.Secure {
			s.SocketURL = "wss://" + s.Host
		}
		return nil
	}

	s.Secure = true // old add-ons set http
	s.Host = strings.TrimSuffix(s.Host, ":80")
	own := clusterOf(name)
	switch {
	case cluster.value != "": // an app lives in one cluster only
		s.Cluster = cluster.value
		s.Host = apiHost(s.Cluster)
		s.Source += " and PUSHER_CLUSTER"
	case s.Cluster == "":
		s.Cluster = own
	case own == "":
		s.Host = apiHost(s.Cluster)
	case own != s.Cluster:
		return fmt.Errorf("%s names a different cluster than CLUSTER: remove HOST, which Pusher's clusters don't need, or correct one of them", host)
	}
	if s.Cluster == "" {
		return fmt.Errorf("%s names a Pusher host without a cluster: use api-CLUSTER.pusher.com (such as api-eu.pusher.com), or set PUSHER_CLUSTER", host)
	}
	return nil
}

// socketURL returns the address in a PUSHER_SOCKET_URL, without the /app/KEY that
// it may end in.
func socketURL(v setting) (string, error) {
	if m := socketPattern.FindStringSubmatch(v.value); m != nil {
		if _, ok := hostOf(m[2]); ok {
			return strings.ToLower(m[1]+"://"+m[2]) + m[3], nil
		}
	}
	return "", fmt.Errorf("%s must have the form wss://HOST[:PORT][/PREFIX] (or ws://), without quotes, spaces, user name or #: set it to the WebSocket address, for browsers, of the server in PUSHER_URL or app.cfg, or remove it", v)
}

// hostOf returns the host in host[:port], in lower case: a name or an IP address, IPv6
// in brackets. ok is false if hostport is anything else.
func hostOf(hostport string) (host string, ok bool) {
	m := hostPattern.FindStringSubmatch(strings.ToLower(hostport))
	if m == nil {
		return "", false
	}
	port, _ := strconv.Atoi(m[2]) // 0 if there is none
	ip, err := netip.ParseAddr(strings.Trim(m[1], "[]"))
	return m[1], port <= 65535 && (m[1][0] != '[' || err == nil && ip.Is6())
}

// isPusher reports whether a host, in lower case, is one of Pusher's.
func isPusher(name string) bool {
	return strings.HasSuffix("."+name, ".pusher.com") || strings.HasSuffix("."+name, ".pusherapp.com")
}

// clusterOf returns the cluster of a Pusher API host, or "" if the name doesn't say.
func clusterOf(name string) string {
	if name == "api.pusherapp.com" || name == "api.pusher.com" {
		return "mt1"
	}
	cluster := strings.TrimSuffix(strings.TrimPrefix(name, "api-"), ".pusher.com")
	if name != apiHost(cluster) || !clusterPattern.MatchString(cluster) || cluster == "cluster" { // the word in urlForm
		return ""
	}
	return cluster
}

func apiHost(cluster string) string { return "api-" + cluster + ".pusher.com" }
