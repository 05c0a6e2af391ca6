package settings

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

const (
	credentialsURL = "https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"

	// Regular expressions. The groups are, in pusherHost: cluster; in socketURL: the URL without /app/KEY or / at its end.
	hostPort   = `(?:\w[\w.-]*|\[[[:xdigit:]:.]+\])(?::\d{1,5})?`
	pusher     = `pusher(?:app)?\.com\.?(?::\d+)?$`
	pusherHost = `^(?:\w+-([a-z0-9-]+)|api)\.` + pusher
	socketURL  = `^(wss?://` + hostPort + `(?:/[\w.-]+)*?)(?:/app/[\w-]+)?/?$`
)

// groups returns the text that a regular expression and its groups match in s, or nil. It compiles the expression when
// it is used: most settings are not set, and compiling all expressions would take most of the program's startup time.
func groups(expression, s string) []string {
	return regexp.MustCompile(expression).FindStringSubmatch(s)
}

// rules say which values are valid, for all settings but PUSHER_URL. An error consists of the value's place and the
// rule's problem. ID and KEY may not contain characters that are special in URLs, because pusher-http-go and pusher-js
// put them into URLs unescaped.
var rules = []struct {
	names   []string // of the settings that the rule applies to
	valid   func(value string) bool
	problem string
}{
	{[]string{"ID", "KEY", "SECRET", "CLUSTER", "PUSHER_CLUSTER", "HOST"},
		lacks(`^((?i:your[-_].*)|(APP_)?(ID|KEY|SECRET|CLUSTER)|api-CLUSTER\.pusher\.com|<.*>)$`),
		"must be your app's own value, not a placeholder, and without < >: copy it from " +
			"https://dashboard.pusher.com, in your app, under \"App Keys\"; without an account, remove app.cfg and " +
			"PUSHER_URL, or use the PUSHER_URL that a running pusher-sample prints"},
	{[]string{"ID", "KEY"}, matches(`^[\w-]+$`),
		"must consist of letters, digits, - and _: copy it again, without surrounding characters"},
	{[]string{"SECRET"}, lacks(`[\pC\pZ]`),
		"must not contain a space, a line break or an invisible character: copy it again, without surrounding " +
			"characters"},
	{[]string{"CLUSTER", "PUSHER_CLUSTER"}, matches(`^[a-z0-9-]+$`),
		"is not the name of a cluster: use the short name that the dashboard shows, in lower case, such as eu or mt1"},
	{[]string{"HOST"}, lacks(`^0\.0\.0\.0`),
		"is not the address of a server: HOST is the host of a self-hosted Channels server; to choose the address " +
			"that this program listens on, remove HOST and use -addr, such as -addr :5000"},
	{[]string{"HOST"}, isHost,
		"is not a host: use only a host or host:port, such as localhost:6001 or [::1]:6001, without a scheme, path or " +
			"spaces"},
	{[]string{"HOST"}, isNotOtherPusher,
		"is not the host of Pusher's API: use api-CLUSTER.pusher.com, such as api-eu.pusher.com"},
	{[]string{"SECURE"}, matches(`^([Tt]rue|[Ff]alse|1|0)$`),
		"is neither true nor false: set it to True or False, or remove it"},

	{[]string{"PUSHER_SOCKET_URL"}, isSocketURL,
		"must have the form wss://HOST[:PORT][/PREFIX] (or ws://), without quotes, spaces, user name or #: set it to " +
			"the address at which browsers reach the WebSockets of the server in PUSHER_URL or app.cfg, or remove it"},
	{[]string{"PORT"}, isPort,
		"is not a port: set it to a number from 0 (any free port) to 65535, such as 8080, or remove it"},
	{[]string{"RATE_LIMIT"}, matches(`^\d{1,6}(\.\d{1,3})?$`),
		"is not a rate: set it to how many clicks per second to accept from one client address, from 0.001 to 999999 " +
			"or 0 (unlimited), or remove it for the default, 1"},
	{[]string{"TRUST_PROXY"}, matches(`^\d$`),
		"is not a number of proxies: set it to how many reverse proxies are in front of this program, from 0 to 9, " +
			"or remove it"},
}

// check returns an error for the first rule that a setting breaks.
func check(values map[string]setting) error {
	for _, rule := range rules {
		for _, name := range rule.names {
			if v := values[name]; v.value != "" && !rule.valid(v.value) {
				return fmt.Errorf("%s %s", v.place, rule.problem)
			}
		}
	}
	return nil
}

func matches(expression string) func(string) bool {
	return func(value string) bool { return groups(expression, value) != nil }
}

func lacks(expression string) func(string) bool {
	return func(value string) bool { return groups(expression, value) == nil }
}

func isPort(value string) bool {
	_, err := strconv.ParseUint(value, 10, 16)
	return err == nil
}

func isHost(value string) bool {
	u, err := url.Parse("http://" + value) // also checks the syntax of an IPv6 address
	return err == nil && groups(`^`+hostPort+`$`, value) != nil && (u.Port() == "" || isPort(u.Port()))
}

func isSocketURL(value string) bool {
	u, err := url.Parse(value)
	return err == nil && groups(socketURL, value) != nil && isHost(u.Host)
}

// isNotOtherPusher reports whether a host is either the host of an API of Pusher, or not one of Pusher's hosts.
func isNotOtherPusher(value string) bool {
	host := strings.ToLower(value)
	return groups(pusherHost, host) != nil || groups(`(^|\.)`+pusher, host) == nil
}

// parsePusherURL returns the settings in a PUSHER_URL, under their names in app.cfg, or what is wrong with it.
func parsePusherURL(value string) (settings map[string]string, problem string) {
	const authority = `([^:/?#@]+):((?:[^/?#@%]|%[[:xdigit:]]{2})+)@([^/?#@]+)` // key, secret, host
	part := groups(`^http(s)?://`+authority+`/apps/([\w-]+)/?$`, value)
	switch {
	case groups("^[\"'`“”‘’]|[\"'`“”‘’]$", value) != nil:
		problem = "is in quotes: remove them"
	case strings.ContainsAny(value, "<>"):
		problem = "contains < or >: remove them, because they only mark placeholders"
	case groups(`^[!-~]+$`, value) == nil:
		problem = "contains a space, a line break or a non-ASCII character, perhaps at its end: remove it, or percent-encode " +
			"it if it is part of the secret"
	case groups(`^https?://`, value) == nil:
		problem = "must begin with https:// (or http://)"
	case groups(`^https?://dashboard\.pusher\.com`, value) != nil:
		problem = "is the address of Pusher's dashboard, not of its API: use the values on that page, under \"App Keys\""
	case groups(`^https?://`+authority+`([/?#]|$)`, value) == nil:
		problem = "must have KEY:SECRET@HOST after the ://, with special characters percent-encoded (% as %25, / as %2F, @ as " +
			"%40, # as %23, ? as %3F)"
	case part == nil:
		problem = "must end with /apps/ID right after the host, where ID has only letters, digits, - and _"
	default:
		secret, _ := url.PathUnescape(part[3])
		return map[string]string{
			"SECURE": strconv.FormatBool(part[1] != ""), "KEY": part[2], "SECRET": secret, "HOST": part[4], "ID": part[5],
		}, ""
	}
	return nil, problem + "; the form is " + credentialsURL
}
