package settings

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// pattern is a regular expression. It is compiled when it is used: most settings are not set, and compiling all
// patterns would take most of the program's start.
type pattern string

func (p pattern) matches(s string) bool { return regexp.MustCompile(string(p)).MatchString(s) }
func (p pattern) groups(s string) []string {
	return regexp.MustCompile(string(p)).FindStringSubmatch(s)
}

const (
	// authority matches KEY:SECRET@HOST in a URL. SECRET must be percent-encoded where necessary.
	authority = `([^:/?#@]+):((?:[\w.~!$&'()*+,;=:-]|%[[:xdigit:]]{2})+)@([^/?#@]+)`

	// The groups are, in pusherURL: s of https, key, secret, host, ID; in hostPort: host, IPv6 address, port; in apiHost:
	// cluster; in socketURL: ws:// or wss://, host[:port], path prefix.
	pusherURL   pattern = `^(?i:http(s)?)://` + authority + `/apps/([\w-]+)/?$`
	hostPort    pattern = `^([\w-]+(?:\.[\w-]+)*|(\[[0-9a-f:.]+\]))(?::([1-9][0-9]*))?$`
	apiHost     pattern = `^api(?:-([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.pusher|\.pusher(?:app)?)\.com$`
	socketURL   pattern = `^((?i:wss?)://)([^/?#@]+)((?:/[\w~-][\w.~-]*)*?)(?:/app/[^/?#]*(?:\?[^#]*)?)?/?$`
	isPusher    pattern = `(^|\.)pusher(app)?\.com$`
	isTrue      pattern = `^(?i:true|1|yes|on)$`
	quoted      pattern = "^[\"'`“”‘’]|[\"'`“”‘’]$"
	placeholder pattern = `^((?i:your[-_](app[-_])?(id|key|secret|cluster)|api-cluster\.pusher\.com)|` +
		`(APP_)?(ID|KEY|SECRET|CLUSTER)|<.*>)$`

	urlForm = "; the form is https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"
)

// rules say which values are invalid. An error consists of the value's place and the rule's problem. ID and KEY may not
// contain characters that are special in URLs, because pusher-http-go and pusher-js put them into URLs unescaped.
var rules = []struct {
	names   string // of the settings that the rule applies to, separated by spaces
	invalid func(value string) bool
	problem string
}{
	{"PUSHER_URL", quoted.matches, "is in quotes: remove them" + urlForm},
	{"PUSHER_URL", pattern(`[<>]`).matches,
		"has < or > in it: remove the < >, which only mark placeholders" + urlForm},
	{"PUSHER_URL", pattern(`[^!-~]`).matches,
		"has a space, a line break or a non-ASCII character in it, perhaps at its end: remove it, or percent-encode it if " +
			"it is part of the secret" + urlForm},
	{"PUSHER_URL", not(pattern(`^(?i:https?)://`).matches), "must begin with https:// (or http://)" + urlForm},
	{"PUSHER_URL", pattern(`^\w+://(?i:dashboard\.pusher\.com)`).matches,
		`is the address of Pusher's dashboard, not of its API: use the values on that page, under "App Keys"` + urlForm},
	{"PUSHER_URL", not(pattern(`^\w+://` + authority + `([/?#]|$)`).matches),
		"must have KEY:SECRET@HOST after the ://, with special characters percent-encoded (% as %25, / as %2F, @ as %40, # " +
			"as %23, ? as %3F)" + urlForm},
	{"PUSHER_URL", not(pusherURL.matches),
		"must end with /apps/ID right after the host, where ID has only letters, digits, - and _" + urlForm},

	{"ID KEY SECRET CLUSTER PUSHER_CLUSTER HOST", placeholder.matches,
		"must be your app's own value, not a placeholder, and without < >: copy it from https://dashboard.pusher.com, in " +
			"your app, under \"App Keys\"; without an account, remove app.cfg and PUSHER_URL, or use the PUSHER_URL that a " +
			"running pusher-sample prints"},
	{"ID KEY", pattern(`[^\w-]`).matches,
		"must consist of letters, digits, - and _: copy it again, without surrounding characters"},
	{"SECRET", quoted.matches,
		`must not begin or end with a quote: remove the quotes or, in app.cfg, put the value in one pair of plain quotes, ` +
			`'…' or "…"`},
	{"SECRET", pattern(`[^\pL\pM\pN\pP\pS]`).matches,
		"must not contain a space, a line break or an invisible character: copy it again, without surrounding characters"},
	{"CLUSTER PUSHER_CLUSTER", pattern(`[^a-z0-9-]|^(api|ws)?-|-$`).matches,
		"is not the name of a cluster: use the short name that the dashboard shows, in lower case, such as eu or mt1"},
	{"HOST", pattern(`^(0\.0\.0\.0|\[?::\]?)(:\d+)?$`).matches,
		"is not the address of a server: HOST is the host of a self-hosted Channels server; to choose the address that " +
			"this program listens on, remove HOST and use -addr, such as -addr :5000"},
	{"HOST", not(isHost),
		"is not a host: use only a host or host:port, such as localhost:6001, without a scheme, path or spaces"},

	{"PUSHER_SOCKET_URL", not(isSocketURL),
		"must have the form wss://HOST[:PORT][/PREFIX] (or ws://), without quotes, spaces, user name or #: set it to the " +
			"address at which browsers reach the WebSockets of the server in PUSHER_URL or app.cfg, or remove it"},
	{"PORT", not(isPort), "is not a port: set it to a number from 0 (any free port) to 65535, such as 8080, or remove it"},
	{"RATE_LIMIT", not(isRate),
		"is not a rate: set it to the max clicks per second per client address, 0 (unlimited) or a number from 0.001 to " +
			"1000000, or remove it for the default, 1"},
	{"TRUST_PROXY", not(pattern(`^[0-9]$`).matches),
		"is not a number of proxies: set it to how many reverse proxies are in front of this program, from 0 to 9, or remove it"},
	{"SECURE", not(pattern(`^(?i:true|1|yes|on|false|0|no|off)$`).matches),
		"is neither true nor false: set it to True or False, or remove it"},
}

func not(valid func(string) bool) func(string) bool {
	return func(value string) bool { return !valid(value) }
}

// check returns an error for the first broken rule, naming the settings that break it.
func check(values map[string]setting) error {
	for _, rule := range rules {
		var places []string
		for name := range strings.FieldsSeq(rule.names) {
			if v := values[name]; v.value != "" && rule.invalid(v.value) {
				places = append(places, v.place)
			}
		}
		if places != nil {
			return fmt.Errorf("%s %s", strings.Join(places, ", "), rule.problem)
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
	return err == nil && (rate == 0 || rate >= 0.001 && rate <= 1e6) // false for NaN
}

func isSocketURL(value string) bool {
	part := socketURL.groups(value)
	return part != nil && isHost(part[2])
}

func isHost(value string) bool { return hostOf(value) != "" }

// hostOf returns the host of a host[:port], in lower case: a name, an IPv4 address, or an IPv6 address in brackets. It
// returns "" if hostport is invalid.
func hostOf(hostport string) string {
	m := hostPort.groups(strings.ToLower(hostport))
	if m == nil {
		return ""
	}
	// Check what the pattern can't: an IPv6 address's syntax and a port's range.
	if _, err := netip.ParseAddrPort(cmp.Or(m[2], "[::1]") + ":" + cmp.Or(m[3], "1")); err != nil {
		return ""
	}
	return m[1]
}
