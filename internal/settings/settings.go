// Package settings works out, from the environment, .env and app.cfg, what the
// program runs with: where events go, where the page connects, where to listen.
//
// A value that is given but wrong is an error of one line, which names the place,
// the fault and the remedy. No error holds any part of a value, because a secret
// can be pasted into the wrong place.
package settings

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Settings is what the program runs with. Secret is in it: don't log it whole.
type Settings struct {
	// Source is where the credentials were found: "PUSHER_URL", "PUSHER_URL in
	// .env" or "app.cfg". It is empty if there are none: the embedded server.
	Source string

	// AppID, Key and Secret are the app's credentials, empty for the embedded
	// server. AppID and Key consist of letters, digits, - and _ only.
	AppID, Key, Secret string

	// Host is the host[:port] of the HTTP API, empty for the embedded server.
	Host string

	// Secure says to call the HTTP API over HTTPS: always so at Pusher.
	Secure bool

	// Cluster is the Pusher cluster that the page connects to. For a self-hosted
	// server it is empty, unless PUSHER_CLUSTER or app.cfg gives one.
	Cluster string

	// SocketURL is the ws[s]://host[:port][/prefix] that the page connects to at a
	// self-hosted server. It is empty for Pusher and for the embedded server.
	SocketURL string

	// Addr is the address to listen on: ":PORT", or "127.0.0.1:5000" without PORT.
	Addr string

	// RateLimit is how many clicks a second one client address may make, at most
	// a million; 0 is no limit. Without RATE_LIMIT it is 5.
	RateLimit float64
}

// Embedded reports whether no credentials were given, so that events go to the
// server inside this program.
func (s Settings) Embedded() bool { return s.Source == "" }

const (
	urlForm = "https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"
	appKeys = `https://dashboard.pusher.com, in your app, under "App Keys"`
	quotes  = "\"'`“”‘’"
)

var (
	envNames = []string{"PUSHER_URL", "PUSHER_CLUSTER", "PUSHER_SOCKET_URL", "PORT", "RATE_LIMIT"}
	cfgNames = []string{"ID", "KEY", "SECRET", "CLUSTER", "HOST", "SECURE"}

	// pusher-http-go puts ID and key into the request's URL unescaped, and so does
	// pusher-js with the key: nothing that means something in a URL may be in them.
	idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

	placeholder    = regexp.MustCompile(`^((?i:your[-_](app[-_])?(id|key|secret))|APP_ID|APP_KEY|APP_SECRET|ID|KEY|SECRET)$`)
	clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	hostPattern    = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)
	pathPattern    = regexp.MustCompile(`^/apps/([A-Za-z0-9_-]+)/?$`)
	prefixPattern  = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*$`)
)

// Load reads the settings from getenv, from .env in dir (the environment wins)
// and from app.cfg in dir. An empty value counts as not given. The credentials are
// the first given of PUSHER_URL and app.cfg; app.cfg is not looked at beside PUSHER_URL.
// Settings that come with an error are of no use.
func Load(getenv func(string) string, dir string) (Settings, error) {
	var s Settings
	dotenv, err := readFile(dir, ".env", envName)
	if err != nil {
		return s, err
	}
	get := func(name string) setting {
		if value := getenv(name); value != "" {
			return setting{value: value, place: name}
		}
		return dotenv[name]
	}

	if s.Addr, err = listenAddr(get("PORT")); err != nil {
		return s, err
	}
	if s.RateLimit, err = rateLimit(get("RATE_LIMIT")); err != nil {
		return s, err
	}
	cluster := get("PUSHER_CLUSTER")
	if err := checkCluster(cluster); err != nil {
		return s, err
	}

	if pusherURL := get("PUSHER_URL"); pusherURL.value != "" {
		s.Source = "PUSHER_URL"
		if pusherURL.line > 0 {
			s.Source = "PUSHER_URL in .env"
		}
		if err := s.useURL(pusherURL); err != nil {
			return s, err
		}
		return s, s.route(pusherURL.place, cluster.value, get("PUSHER_SOCKET_URL"))
	}
	cfg, err := readFile(dir, "app.cfg", cfgName)
	if err != nil || cfg == nil {
		return s, err
	}
	s.Source = "app.cfg"
	if err := s.useConfig(cfg); err != nil {
		return s, err
	}
	return s, s.route(cfg["HOST"].place, cluster.value, get("PUSHER_SOCKET_URL"))
}

// envName returns name if it is a variable of this program, else "".
func envName(name string) string {
	if slices.Contains(envNames, name) {
		return name
	}
	return ""
}

// cfgName returns the name that app.cfg's name stands for, or "" if for none.
func cfgName(name string) string {
	name = strings.ToUpper(name)
	if name == "APP_ID" {
		return "ID"
	}
	if slices.Contains(cfgNames, name) {
		return name
	}
	return ""
}

func listenAddr(port setting) (string, error) {
	if port.value == "" {
		return "127.0.0.1:5000", nil
	}
	n, err := strconv.ParseUint(port.value, 10, 16)
	if err != nil {
		return "", fmt.Errorf("%s is not a port: set it to a number from 0 (any free port) to 65535, such as 8080, or unset it", port.place)
	}
	return fmt.Sprintf(":%d", n), nil
}

func rateLimit(rate setting) (float64, error) {
	if rate.value == "" {
		return 5, nil
	}
	n, err := strconv.ParseFloat(rate.value, 64)
	if err != nil || !(n >= 0 && n <= 1e6) { // NaN fails both
		return 0, fmt.Errorf("%s is not a rate: set it to the clicks a second allowed to one client address, from 0 (no limit) to 1000000, or unset it for 5", rate.place)
	}
	return n, nil
}

// checkCluster refuses upper case rather than lower it, and a host name in the
// cluster's place: either is a sign that something else was pasted.
func checkCluster(c setting) error {
	if c.value == "" {
		return nil
	}
	if !clusterPattern.MatchString(c.value) || strings.HasPrefix(c.value, "api-") || strings.HasPrefix(c.value, "ws-") {
		return fmt.Errorf("%s is not the name of a cluster: write the short name that the dashboard shows, in lower case, such as eu or mt1", c.place)
	}
	return nil
}

// useURL takes the credentials and the API's address from a PUSHER_URL.
func (s *Settings) useURL(v setting) error {
	if strings.Trim(v.value, quotes) != v.value {
		return fmt.Errorf("%s is in quotes, and they are taken as part of it: write the URL without them", v.place)
	}
	if strings.ContainsFunc(v.value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%s has a space, a line break or a character outside ASCII in it, perhaps at its end: remove it, or percent-encode it if the secret has it", v.place)
	}
	if scheme, _, ok := strings.Cut(v.value, "://"); !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return fmt.Errorf("%s must begin with https:// (or http://): its form is %s", v.place, urlForm)
	}
	u, err := url.Parse(v.value) // err is dropped: it quotes the URL
	at := strings.Count(v.value, "@")
	if err != nil || at > 1 || at == 1 && u.User == nil {
		return fmt.Errorf("%s can't be read as a URL of the form %s: percent-encode special characters in the key and the secret (%% as %%25, / as %%2F, @ as %%40, # as %%23, ? as %%3F)", v.place, urlForm)
	}
	name, _, ok := splitHost(u.Host)
	if !ok {
		return fmt.Errorf("%s has no valid host[:port] after the @: its form is %s", v.place, urlForm)
	}
	if name == "dashboard.pusher.com" {
		return fmt.Errorf("%s is the address of Pusher's dashboard, not of its API: its form is %s, and what to put in is on that page of the dashboard, under \"App Keys\"", v.place, urlForm)
	}
	if u.User == nil {
		return fmt.Errorf("%s has no KEY:SECRET@ before the host: its form is %s", v.place, urlForm)
	}
	if u.User.Username() == "" {
		return fmt.Errorf("%s has no key between // and the colon: its form is %s", v.place, urlForm)
	}
	if secret, _ := u.User.Password(); secret == "" {
		return fmt.Errorf("%s has no secret between the colon after the key and the @: its form is %s", v.place, urlForm)
	}
	if strings.ContainsAny(v.value, "?#") {
		return fmt.Errorf("%s goes on after the app ID with ? or #: remove everything from there, so that its form is %s", v.place, urlForm)
	}
	path := pathPattern.FindStringSubmatch(u.EscapedPath())
	if path == nil {
		return fmt.Errorf("%s must go on after the host with /apps/ID and nothing else, ID being letters, digits, - and _: its form is %s", v.place, urlForm)
	}
	s.AppID, s.Key = path[1], u.User.Username()
	s.Secret, _ = u.User.Password()
	s.Host, s.Secure = strings.ToLower(u.Host), u.Scheme == "https"

	place := func(what string) string { return "the " + what + " in " + v.place }
	return s.checkCredentials(place("app ID"), place("key"), place("secret"))
}

// useConfig takes the credentials and the API's address from app.cfg.
func (s *Settings) useConfig(cfg map[string]setting) error {
	var missing []string
	for _, name := range []string{"ID", "KEY", "SECRET"} {
		if cfg[name].value == "" {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return fmt.Errorf("app.cfg has no value for %s: it must give ID, KEY and SECRET, a line for each, such as KEY = 'abc123' (see app.cfg.example); without the file, the embedded server is used", strings.Join(missing, ", "))
	}
	s.AppID, s.Key, s.Secret = cfg["ID"].value, cfg["KEY"].value, cfg["SECRET"].value
	if err := s.checkCredentials(cfg["ID"].place, cfg["KEY"].place, cfg["SECRET"].place); err != nil {
		return err
	}

	s.Cluster = cfg["CLUSTER"].value
	if err := checkCluster(cfg["CLUSTER"]); err != nil {
		return err
	}
	switch secure := cfg["SECURE"]; strings.ToLower(secure.value) {
	case "true", "1", "yes", "on":
		s.Secure = true
	case "false", "0", "no", "off", "":
	default:
		return fmt.Errorf("%s is neither true nor false: write SECURE = True to call HOST over HTTPS, or SECURE = False for HTTP", secure.place)
	}
	host := cfg["HOST"]
	if host.value == "" {
		if s.Cluster == "" {
			s.Cluster = "mt1"
		}
		s.Host = apiHost(s.Cluster)
		return nil
	}
	if _, _, ok := splitHost(host.value); !ok {
		return fmt.Errorf("%s is not a host: write only a host or host:port, such as localhost:6001, without http:// and without a path", host.place)
	}
	s.Host = strings.ToLower(host.value)
	return nil
}

// checkCredentials looks at what can be seen to be wrong without asking Pusher.
// The arguments say, for messages, where ID, key and secret were given.
func (s *Settings) checkCredentials(idPlace, keyPlace, secretPlace string) error {
	id := setting{value: s.AppID, place: idPlace}
	key := setting{value: s.Key, place: keyPlace}
	secret := setting{value: s.Secret, place: secretPlace}
	for _, c := range []setting{id, key, secret} {
		if placeholder.MatchString(c.value) {
			return fmt.Errorf("%s is still the example's: put in your own app's, which is at %s", c.place, appKeys)
		}
	}
	for _, c := range []setting{id, key} {
		if !idPattern.MatchString(c.value) {
			return fmt.Errorf("%s has a character in it that is no letter, digit, - or _: copy it again, without anything around it", c.place)
		}
	}
	if strings.Trim(s.Secret, quotes) != s.Secret {
		return fmt.Errorf("%s has a quote at its beginning or end: write it in one pair of plain quotes, '…' or \"…\", or without any", secretPlace)
	}
	if strings.ContainsFunc(s.Secret, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }) {
		return fmt.Errorf("%s has a space, a line break or an invisible character in it: copy it again, without anything around it", secretPlace)
	}
	return nil
}

// route works out, from the API's host and what was said beside it, where the API
// is called and where the page connects. place is where the host was given.
func (s *Settings) route(place, cluster string, socket setting) error {
	name, port, _ := splitHost(s.Host)
	if !isPusher(name) {
		if cluster != "" {
			s.Cluster = cluster
		}
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

	s.Secure = true // the add-ons of old give http
	if port == "80" {
		s.Host = name
	}
	own := clusterOf(name)
	switch {
	case cluster != "": // an app lives in one cluster only
		s.Cluster = cluster
		s.Host = apiHost(cluster)
	case s.Cluster == "":
		s.Cluster = own
	case own == "":
		s.Host = apiHost(s.Cluster)
	case own != s.Cluster:
		return fmt.Errorf("%s names another cluster than CLUSTER does: remove HOST, which Pusher's clusters don't need, or correct one of them", place)
	}
	if s.Cluster == "" {
		return fmt.Errorf("%s has a host of Pusher's that doesn't say the cluster: use api-eu.pusher.com, with the app's own cluster in place of eu, or set PUSHER_CLUSTER to it", place)
	}
	return nil
}

// socketURL returns the address in a PUSHER_SOCKET_URL without the /app/KEY that it
// may end in.
func socketURL(v setting) (string, error) {
	fault := fmt.Errorf("%s is not of the form wss://HOST[:PORT][/PREFIX] (or ws://), without quotes, spaces, user name or #: write the address at which browsers reach the WebSockets of the server in PUSHER_URL or app.cfg, or unset it", v.place)
	u, err := url.Parse(v.value) // err is dropped: it quotes the URL
	if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || strings.ContainsAny(v.value, "@#") {
		return "", fault
	}
	prefix := u.EscapedPath()
	if i := strings.LastIndex(prefix, "/app/"); i >= 0 {
		prefix = prefix[:i]
	} else if strings.Contains(v.value, "?") {
		return "", fault
	}
	prefix = strings.TrimSuffix(prefix, "/")
	if _, _, ok := splitHost(u.Host); !ok || !prefixPattern.MatchString(prefix) {
		return "", fault
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + prefix, nil
}

// splitHost takes apart host[:port], an IPv6 address in brackets; the name comes
// back in lower case. ok is false if it is anything else.
func splitHost(hostport string) (name, port string, ok bool) {
	u, err := url.Parse("//" + hostport)
	if err != nil || u.Host != hostport || strings.HasSuffix(hostport, ":") {
		return "", "", false
	}
	name, port = strings.ToLower(u.Hostname()), u.Port()
	if strings.HasPrefix(hostport, "[") {
		ip, err := netip.ParseAddr(name)
		ok = err == nil && ip.Is6() // a zone is %25 in hostport, % in u.Host: refused above
	} else {
		ok = hostPattern.MatchString(name)
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		ok = false
	}
	return name, port, ok
}

// isPusher reports whether a host, in lower case, is one of Pusher's own.
func isPusher(name string) bool {
	return strings.HasSuffix("."+name, ".pusher.com") || strings.HasSuffix("."+name, ".pusherapp.com")
}

// clusterOf returns the cluster that a host of Pusher's API serves, "" if it
// doesn't say.
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
