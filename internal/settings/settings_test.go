package settings

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pusher-sample/internal/pusherapi"

	"github.com/pusher/pusher-http-go/v5"
)

// files maps the names of the directory's files to their contents.
type files map[string]string

// load runs Load with env as the environment and files as the directory.
func load(t testing.TB, env map[string]string, files files) (Settings, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	return Load(environ, dir)
}

// env returns a map made from alternating names and values.
func env(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

const (
	euURL  = "https://zqkey:zqsecret@api-eu.pusher.com/apps/12"
	ownURL = "http://zqkey:zqsecret@localhost:6001/apps/zq-app"
	cfg    = "ID = '12'\nKEY = 'zqkey'\nSECRET = 'zqsecret'\n"
)

// hosted returns the settings of app 12 at Pusher.
func hosted(source, host, cluster string) Settings {
	server := Server{Name: "Pusher", Source: source, Host: host, TLS: true, AppID: "12", Key: "zqkey", Secret: "zqsecret"}
	server.Cluster = cluster
	return Settings{Server: server, Addr: "127.0.0.1:5000", RateLimit: 1}
}

// own returns the settings of app zq-app on a self-hosted server.
func own(host, socketURL string) Settings {
	server := Server{Name: "the Channels server", Source: "PUSHER_URL", AppID: "zq-app", Key: "zqkey", Secret: "zqsecret"}
	server.Host, server.SocketURL, server.TLS = host, socketURL, strings.HasPrefix(socketURL, "wss")
	return Settings{Server: server, Addr: "127.0.0.1:5000", RateLimit: 1}
}

// embedded returns the settings of the embedded server, without its generated secret.
func embedded(addr string, rate float64) Settings {
	server := Server{Name: "the embedded Channels server", AppID: "1", Key: "local"}
	return Settings{Server: server, Addr: addr, RateLimit: rate}
}

// with returns a changed copy of s.
func with(s Settings, change func(*Settings)) Settings {
	change(&s)
	return s
}

// secret returns a change that sets the secret.
func secret(secret string) func(*Settings) {
	return func(s *Settings) { s.Server.Secret = secret }
}

var accepted = []struct {
	name  string
	env   map[string]string
	files files
	want  Settings
}{
	// Where the credentials come from.
	{"nothing", nil, nil, embedded("127.0.0.1:5000", 1)},
	{"empty counts as unset", env("PUSHER_URL", "", "PUSHER_CLUSTER", "", "PORT", "", "RATE_LIMIT", ""),
		files{".env": "PUSHER_URL=\nPORT=''\nRATE_LIMIT= # none\n"}, embedded("127.0.0.1:5000", 1)},
	{"environment", env("PUSHER_URL", euURL), nil, hosted("PUSHER_URL", "api-eu.pusher.com", "eu")},
	{"environment before .env and app.cfg", env("PUSHER_URL", euURL),
		files{".env": "PUSHER_URL=" + ownURL, "app.cfg": "nonsense"}, hosted("PUSHER_URL", "api-eu.pusher.com", "eu")},
	{".env before app.cfg", env("PUSHER_URL", ""), files{".env": "PUSHER_URL=" + euURL, "app.cfg": cfg},
		hosted("PUSHER_URL in .env", "api-eu.pusher.com", "eu")},
	{"app.cfg", nil, files{"app.cfg": cfg}, hosted("app.cfg", "api-mt1.pusher.com", "mt1")},
	{"embedded ignores the rest of the add-on", env("PUSHER_SOCKET_URL", "ws://ws.pusherapp.com:80/app/zqkey", "PUSHER_CLUSTER", "eu"), nil,
		embedded("127.0.0.1:5000", 1)},

	// Which host the app calls, and where the page connects.
	{"http at Pusher", env("PUSHER_URL", "http://zqkey:zqsecret@api-eu.pusher.com/apps/12"), nil, hosted("PUSHER_URL", "api-eu.pusher.com", "eu")},
	{"api.pusherapp.com", env("PUSHER_URL", "http://zqkey:zqsecret@api.pusherapp.com/apps/12"), nil, hosted("PUSHER_URL", "api-mt1.pusher.com", "mt1")},
	{"host and scheme in upper case", env("PUSHER_URL", "HTTPS://zqkey:zqsecret@API-EU.Pusher.COM/apps/12"), nil, hosted("PUSHER_URL", "api-eu.pusher.com", "eu")},
	{"PUSHER_SOCKET_URL is ignored with Pusher", env("PUSHER_URL", euURL, "PUSHER_SOCKET_URL", "ws://ws.pusherapp.com:80/app/zqkey"), nil, hosted("PUSHER_URL", "api-eu.pusher.com", "eu")},
	{"PUSHER_CLUSTER over the URL's", env("PUSHER_URL", euURL, "PUSHER_CLUSTER", "us2"), nil, hosted("PUSHER_URL and PUSHER_CLUSTER", "api-us2.pusher.com", "us2")},
	{"PUSHER_CLUSTER for an unrecognized host", env("PUSHER_URL", "http://zqkey:zqsecret@other.pusherapp.com:80/apps/12"),
		files{".env": "PUSHER_CLUSTER=us2"}, hosted("PUSHER_URL and PUSHER_CLUSTER", "api-us2.pusher.com", "us2")},
	{"PUSHER_CLUSTER overrides CLUSTER and HOST in app.cfg", env("PUSHER_CLUSTER", "us2"),
		files{"app.cfg": cfg + "CLUSTER=eu\nHOST=api-ap1.pusher.com"}, hosted("app.cfg and PUSHER_CLUSTER", "api-us2.pusher.com", "us2")},
	{"self-hosted", env("PUSHER_URL", ownURL), nil, own("localhost:6001", "ws://localhost:6001")},
	{"self-hosted, TLS", env("PUSHER_URL", "https://zqkey:zqsecret@ws.Example.org/apps/zq-app"), nil, own("ws.example.org", "wss://ws.example.org")},
	{"self-hosted, a host that resembles Pusher's", env("PUSHER_URL", "http://zqkey:zqsecret@api-eu.notpusher.com:80/apps/zq-app"), nil,
		own("api-eu.notpusher.com:80", "ws://api-eu.notpusher.com:80")},
	{"self-hosted, IPv6", env("PUSHER_URL", "http://zqkey:zqsecret@[::1]:6001/apps/zq-app"), nil, own("[::1]:6001", "ws://[::1]:6001")},
	{"self-hosted, a Docker container's name", env("PUSHER_URL", "http://zqkey:zqsecret@my_soketi:6001/apps/zq-app"), nil, own("my_soketi:6001", "ws://my_soketi:6001")},
	{"PUSHER_SOCKET_URL with a prefix", env("PUSHER_URL", ownURL), files{".env": "PUSHER_SOCKET_URL=ws://ws.example.org/a/b-c/"}, own("localhost:6001", "ws://ws.example.org/a/b-c")},
	{"PUSHER_SOCKET_URL with /app/KEY", env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "ws://ws.example.org/app/zqkey"), nil, own("localhost:6001", "ws://ws.example.org")},

	// Secrets in URLs.
	{"percent-encoded secret", env("PUSHER_URL", "https://zqkey:%2F%40%23%3F%25%24@api-eu.pusher.com/apps/12"), nil,
		with(hosted("PUSHER_URL", "api-eu.pusher.com", "eu"), secret("/@#?%$"))},
	{"the same in .env", nil, files{".env": `PUSHER_URL="https://zqkey:a:b$c$D$(E)@api-eu.pusher.com/apps/12"`},
		with(hosted("PUSHER_URL in .env", "api-eu.pusher.com", "eu"), secret("a:b$c$D$(E)"))},

	// The syntax of app.cfg.
	{"as the sample had it", nil, files{"app.cfg": "# -*- encoding: utf-8 -*-\n\nID = '12'\nKEY = \"zqkey\"\nSECRET='zqsecret'  # don't tell\n"},
		hosted("app.cfg", "api-mt1.pusher.com", "mt1")},
	{"as the dashboard shows it", nil, files{"app.cfg": "app_id = \"12\"\nkey = \"zqkey\"\nsecret = \"zqsecret\"\ncluster = \"eu\"\n"},
		hosted("app.cfg", "api-eu.pusher.com", "eu")},
	{"byte order mark and CRLF", nil, files{"app.cfg": "\ufeff# -*- encoding: utf-8 -*-\r\nID = '12'\r\nKEY = zqkey\r\nSECRET = 'zqsecret'\r\n"},
		hosted("app.cfg", "api-mt1.pusher.com", "mt1")},
	{"colons, export, tabs, mixed case", nil, files{"app.cfg": "App_Id: 12\nexport KEY='zqkey'\n\t export\tSecret :\t zqsecret \t# c\n"},
		hosted("app.cfg", "api-mt1.pusher.com", "mt1")},
	{"unknown names, empty values, the same value twice", nil, files{"app.cfg": "DEBUG = True\nX = [1, 2]\nID =\nCLUSTER = ''\nHOST = # none\n" + cfg + "app_id = 12\n"},
		hosted("app.cfg", "api-mt1.pusher.com", "mt1")},
	{"HOST and PUSHER_SOCKET_URL", env("PUSHER_SOCKET_URL", "wss://ws.example.org"), files{"app.cfg": cfg + "HOST = 10.0.0.1\nSECURE = no"},
		with(own("10.0.0.1", "wss://ws.example.org"), func(s *Settings) { s.Server.Source, s.Server.AppID, s.Server.TLS = "app.cfg", "12", false })},
	{"Pusher HOST, SECURE off", nil, files{"app.cfg": cfg + "HOST = api-eu.pusher.com:80\nSECURE = off"}, hosted("app.cfg", "api-eu.pusher.com", "eu")},
	{"Pusher HOST that names no cluster", nil, files{"app.cfg": cfg + "HOST = other.pusher.com\nCLUSTER = eu"}, hosted("app.cfg", "api-eu.pusher.com", "eu")},

	// The address to listen on, the rate limit, and the proxy.
	{"PORT, RATE_LIMIT", env("PORT", "8080", "RATE_LIMIT", "0.5"), nil, embedded(":8080", 0.5)},
	{"any port, no limit", env("PORT", "0", "RATE_LIMIT", "0"), nil, embedded(":0", 0)},
	{"environment before .env", env("PORT", "1"), files{".env": "PORT=2\nRATE_LIMIT=3"}, embedded(":1", 3)},
	{"behind two proxies", nil, files{".env": "TRUST_PROXY=2"}, with(embedded("127.0.0.1:5000", 1), func(s *Settings) { s.Proxies = 2 })},
	{"Heroku without proxies", env("DYNO", "web.1", "TRUST_PROXY", "0"), nil, with(embedded("127.0.0.1:5000", 1), func(s *Settings) { s.Heroku = true })},
	{"Heroku", env("DYNO", "web.1", "PORT", "1"), nil, with(embedded(":1", 1), func(s *Settings) { s.Proxies, s.Heroku = 1, true })},
}

func TestLoad(t *testing.T) {
	for _, tt := range accepted {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.env, tt.files)
			if err != nil {
				t.Fatal(err)
			}
			got.Warnings = nil // see TestWarnings
			if got.Server.Embedded() {
				if len(got.Server.Secret) < 20 {
					t.Errorf("the generated secret is %q", got.Server.Secret)
				}
				got.Server.Secret = ""
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if !got.Server.Embedded() {
				checkRequest(t, got.Server)
			}
		})
	}
}

// checkRequest triggers an event with pusher-http-go and s, and checks the URL of the request.
func checkRequest(t *testing.T, s Server) {
	t.Helper()
	client := pusher.Client{AppID: s.AppID, Key: s.Key, Secret: s.Secret, Host: s.Host, Secure: s.TLS}
	client.HTTPClient = pusherapi.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme := map[bool]string{false: "http", true: "https"}[s.TLS]
		want := scheme + "://" + s.Host + "/apps/" + s.AppID + "/events"
		if got := r.URL.Scheme + "://" + r.URL.Host + r.URL.Path; got != want {
			t.Errorf("request to %s, want %s", got, want)
		}
		if key := r.URL.Query().Get("auth_key"); key != s.Key {
			t.Errorf("request with key %q, want %q", key, s.Key)
		}
		io.WriteString(w, "{}")
	}))
	if err := client.Trigger("channel1", "event1", "hello"); err != nil {
		t.Fatal(err)
	}
}

func TestConnectOrigins(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{nil, ""},
		{env("PUSHER_URL", euURL), "wss://ws-eu.pusher.com https://sockjs-eu.pusher.com"},
		{env("PUSHER_URL", ownURL), "ws://localhost:6001"},
		{env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "wss://ws.example.org:80/a/b"), "wss://ws.example.org:80"},
		{env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "wss://[::1]:80/a/b"), "wss:"}, // a policy can't contain an IPv6 address
		{env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "ws://a_b"), "ws:"},            // nor an underscore
	} {
		s, err := load(t, tt.env, nil)
		if got := s.Server.ConnectOrigins(); err != nil || got != tt.want {
			t.Errorf("%v: %q, %v; want %q", tt.env, got, err, tt.want)
		}
	}
}

func TestSecure(t *testing.T) {
	for value, want := range map[string]bool{"": false, "True": true, "1": true, "YES": true, "on": true,
		"False": false, "0": false, "no": false, "OFF": false} {
		got, err := load(t, nil, files{"app.cfg": cfg + "HOST=h\nSECURE=" + value})
		if err != nil || got.Server.TLS != want || strings.HasPrefix(got.Server.SocketURL, "wss") != want {
			t.Errorf("SECURE=%s: %v, %v, %v; want %v", value, got.Server.TLS, got.Server.SocketURL, err, want)
		}
	}
}

// Secrets are read unaltered, in each form that app.cfg allows.
func TestSecretUnaltered(t *testing.T) {
	secrets := []string{"a$b", "a$B", "$HOME", "${HOME}", "$(HOME)", `\$A`, "a$", "$$", `a\b`, `a\nb`, `a\\b`, `\`, `a\`, `\\`,
		"a#b", "#a", "a=b", "=", "a:b", "a`b", "a%20b", "a+b", "a&b", "a;b", "a,", "!", "ID=x", "export", "é柱", "a'b", `a"b`}
	forms := []string{"SECRET=%", "SECRET = %", "SECRET: %", "export SECRET=% # c", "SECRET='%'", `SECRET = "%"`, `SECRET="%"# c`}
	for _, secret := range secrets {
		for _, form := range forms {
			single, double := strings.Contains(form, "'"), strings.Contains(form, `"`)
			if single && strings.Contains(secret, "'") || double && strings.Contains(secret, `"`) {
				continue // Load rejects it: see "quote within quotes"
			}
			if strings.HasPrefix(secret, "#") && strings.Contains(form, " %") {
				continue // it would begin a comment
			}
			line := strings.ReplaceAll(form, "%", secret)
			got, err := load(t, nil, files{"app.cfg": "HOME=zz\nA=zz\nID=12\nKEY=zqkey\n" + line})
			if err != nil || got.Server.Secret != secret {
				t.Errorf("%s: got %q, %v", line, got.Server.Secret, err)
			}
		}
	}
}

// In each row, zq marks the values that errors must not show. An error must begin with the part
// of want before …, and contain the part after it.
var rejected = []struct {
	name  string
	env   map[string]string
	files files
	want  string
}{
	{"quoted", env("PUSHER_URL", `"`+euURL+`"`), nil, "PUSHER_URL is in quotes"},
	{"space before", env("PUSHER_URL", " "+euURL), nil, "PUSHER_URL has a space"},
	{"another scheme", env("PUSHER_URL", "ws://zqkey:zqsecret@api-eu.pusher.com/apps/12"), nil, "PUSHER_URL must begin with https://"},
	{"slash in the secret", env("PUSHER_URL", "https://zqkey:zq/secret@api-eu.pusher.com/apps/12"), nil, "PUSHER_URL must have KEY:SECRET@HOST…percent-encode"},
	{"percent in the secret", env("PUSHER_URL", "https://zqkey:zq%zq@api-eu.pusher.com/apps/12"), nil, "PUSHER_URL must have KEY:SECRET@HOST…percent-encode"},
	{"angle brackets", env("PUSHER_URL", "https://<zqkey>:<zqsecret>@api-eu.pusher.com/apps/12"), nil, "PUSHER_URL has < or > in it: remove the < >"},
	{"bad port", env("PUSHER_URL", "https://zqkey:zqsecret@localhost:zq/apps/12"), nil, "HOST in PUSHER_URL is not a host"},
	{"port too large", env("PUSHER_URL", "https://zqkey:zqsecret@localhost:65536/apps/12"), nil, "HOST in PUSHER_URL is not a host"},
	{"dashboard", env("PUSHER_URL", "https://dashboard.pusher.com/apps/12/keys?zq"), nil, "PUSHER_URL is the address of Pusher's dashboard"},
	{"query", env("PUSHER_URL", euURL+"?cluster=zq"), nil, "PUSHER_URL must end with /apps/ID"},
	{"odd ID", env("PUSHER_URL", "https://zqkey:zqsecret@api-eu.pusher.com/apps/zq%2F12"), nil, "PUSHER_URL must end with /apps/ID"},
	{"key that breaks a query", env("PUSHER_URL", "https://zq&key:zqsecret@api-eu.pusher.com/apps/12"), nil, "KEY in PUSHER_URL must consist of letters, digits"},
	{"the form itself", env("PUSHER_URL", "https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"), nil, "ID in PUSHER_URL, KEY in PUSHER_URL, SECRET in PUSHER_URL, HOST in PUSHER_URL must be your app's own value"},
	{"another Pusher host", env("PUSHER_URL", "https://zqkey:zqsecret@ws-eu.pusher.com/apps/12"), nil, "HOST in PUSHER_URL names a Pusher host without a cluster"},
	{"invalid PUSHER_URL, valid app.cfg", env("PUSHER_URL", "zq"), files{"app.cfg": cfg}, "PUSHER_URL must begin with https://"},

	{"cluster in upper case", env("PUSHER_URL", euURL, "PUSHER_CLUSTER", "ZQ"), nil, "PUSHER_CLUSTER is not the name of a cluster"},
	{"host as cluster", env("PUSHER_CLUSTER", "api-zq.pusher.com"), nil, "PUSHER_CLUSTER is not the name of a cluster"},

	{"socket over http", env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "https://zq"), nil, "PUSHER_SOCKET_URL must have the form"},
	{"socket with fragment", env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "wss://zq/app/zqkey#"), nil, "PUSHER_SOCKET_URL must have the form"},
	{"socket with dots", env("PUSHER_URL", ownURL, "PUSHER_SOCKET_URL", "wss://zq/a/../b"), nil, "PUSHER_SOCKET_URL must have the form"},
	{"socket with odd port", nil, files{".env": "PUSHER_URL=" + ownURL + "\nPUSHER_SOCKET_URL=wss://zq:0"}, "PUSHER_SOCKET_URL in .env line 2 must have the form"},

	{"port above 65535", nil, files{".env": "# c\nPORT=65536"}, "PORT in .env line 2 is not a port"},
	{"rate too large", nil, files{".env": "RATE_LIMIT=1000001"}, "RATE_LIMIT in .env line 1 is not a rate"},
	{"rate too small", env("RATE_LIMIT", "1e-300"), nil, "RATE_LIMIT is not a rate"},
	{"ten proxies", nil, files{".env": "TRUST_PROXY=10"}, "TRUST_PROXY in .env line 1 is not a number of proxies"},

	{"empty app.cfg", nil, files{"app.cfg": ""}, "app.cfg has no value for ID, KEY, SECRET:"},
	{"a word processor's quotes", nil, files{"app.cfg": "KEY=zqkey\nSECRET=“zqsecret”\nID=12"}, "SECRET in app.cfg line 2 must not begin or end with a quote"},
	{"invisible character in the secret", nil, files{"app.cfg": "KEY=zqkey\nSECRET='zqsecret\u200b'\nID=12"}, "SECRET in app.cfg line 2 must not contain a space, a line break or an invisible"},
	{"angle brackets in app.cfg", nil, files{"app.cfg": "ID=12\nKEY=<KEY>\nSECRET='<zqsecret>'"},
		"KEY in app.cfg line 2, SECRET in app.cfg line 3 must be your app's own value, not a placeholder, and without < >"},
	{"placeholders for the cluster too", nil, files{"app.cfg": "ID=12\nKEY=YOUR_APP_KEY\nSECRET=zqsecret\nCLUSTER='YOUR_APP_CLUSTER'"},
		"KEY in app.cfg line 2, CLUSTER in app.cfg line 4 must be your app's own value, not a placeholder"},
	{"cluster in app.cfg", nil, files{"app.cfg": cfg + "CLUSTER='ZQ'"}, "CLUSTER in app.cfg line 4 is not the name of a cluster"},
	{"secure in app.cfg", nil, files{"app.cfg": cfg + "SECURE=zq"}, "SECURE in app.cfg line 4 is neither true nor false"},
	{"Flask's bind address", nil, files{"app.cfg": cfg + "HOST = '0.0.0.0'"}, "HOST in app.cfg line 4 is not the address of a server…use -addr"},
	{"Flask's bind address with a port", nil, files{"app.cfg": cfg + "HOST = [::]:5000"}, "HOST in app.cfg line 4 is not the address of a server…use -addr"},
	{"URL as host", nil, files{"app.cfg": cfg + "HOST='https://zq.example.org'"}, "HOST in app.cfg line 4 is not a host"},
	{"host and cluster differ", nil, files{"app.cfg": cfg + "HOST=api-zq.pusher.com\nCLUSTER=zqq"}, "HOST in app.cfg line 4 names a different cluster than CLUSTER"},
	{"ID and app_id", nil, files{"app.cfg": cfg + "\napp_id=13"}, "ID in app.cfg line 5 differs from ID in app.cfg line 1"},

	{"a URL alone", nil, files{".env": "PORT=1\n" + euURL}, ".env line 2 must have the form"},
	{"quote not closed", nil, files{"app.cfg": "ID=12\nSECRET='zqsecret\nKEY='zqkey'"}, "SECRET in app.cfg line 2 must have its whole value in one pair of quotes"},
	{"quote not closed, unknown name", nil, files{".env": "zq=\"zqsecret\nPORT=1\n\""}, ".env line 1 must have its whole value in one pair of quotes"},
	{"text after the quote, behind a no-break space", nil, files{"app.cfg": "SECRET=\u00a0'zq'secret"}, "SECRET in app.cfg line 1 must have its whole value in one pair of quotes"},
	{"quote within quotes", nil, files{"app.cfg": `SECRET="zq\"zq"`}, "SECRET in app.cfg line 1 must have its whole value in one pair of quotes"},
	{"control character", nil, files{"app.cfg": "SECRET='zq\x01secret'"}, "app.cfg line 1 must have the form…without control characters"},
	{"NUL", nil, files{"app.cfg": cfg + "X='zq\x00'"}, "app.cfg is not UTF-8 text"},
	{"UTF-16, little-endian", nil, files{"app.cfg": "\xff\xfeI\x00D\x00=\x001\x00z\x00q\x00"}, "app.cfg is not UTF-8 text"},
	{".env wrong, environment right", env("PUSHER_URL", euURL), files{".env": "zqsecret"}, ".env line 1 must have the form"},
}

func TestLoadRejects(t *testing.T) {
	for _, tt := range rejected {
		t.Run(tt.name, func(t *testing.T) {
			s, err := load(t, tt.env, tt.files)
			if err == nil {
				t.Fatalf("got %+v, want an error", s)
			}
			begin, within, _ := strings.Cut(tt.want, "…")
			if !strings.HasPrefix(err.Error(), begin) || !strings.Contains(err.Error(), within) {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			checkMessage(t, err)
			if strings.Contains(strings.ToLower(err.Error()), "zq") {
				t.Errorf("the error shows a value: %s", err)
			}
		})
	}
}

const place = `(\w+ in PUSHER_URL( in \.env line \d+)?|[A-Z_]+|([A-Z_]+ in )?(app\.cfg|\.env)( line \d+)?)`

var placePattern = regexp.MustCompile(`^(` + place + `, )*` + place + ` [a-z]`)

// checkMessage checks that an error from Load begins with a setting or a file, has one line, and is short.
func checkMessage(t *testing.T, err error) {
	t.Helper()
	message := err.Error()
	multiline := strings.ContainsFunc(message, func(r rune) bool { return r < ' ' })
	if !placePattern.MatchString(message) || multiline || len(message) > 400 {
		t.Errorf("the error doesn't begin with a setting or a file, has several lines, or is too long: %q", message)
	}
}

// Each warning begins with the setting or its place. It shows neither zq nor a name that could be a
// secret, pasted on a line of its own.
func TestWarnings(t *testing.T) {
	tests := []struct {
		name  string
		env   map[string]string
		files files
		want  []string // how each warning begins
	}{
		{"other programs' names in .env", nil, files{".env": "RATE_LIMT=zq\n#OTHER=zq\nPUSHER_URL =" + euURL}, nil},
		{"Laravel's names", nil, files{".env": "PUSHER_APP_ID=12\nPUSHER_APP_CLUSTER=zq"},
			[]string{"PUSHER_APP_ID in .env line 1 is not a setting of this file and is ignored: combine PUSHER_APP_ID, ", "PUSHER_APP_CLUSTER in .env line 2 is not a setting"}},
		{"typo in app.cfg", nil, files{"app.cfg": cfg + "CLUSTR = 'zq'"},
			[]string{"CLUSTR in app.cfg line 4 is not a setting of this file and is ignored: valid names are ID, KEY, SECRET, CLUSTER, HOST, SECURE"}},
		{"typo that leads to an error", nil, files{"app.cfg": "ID=12\nKEY=zqkey\nsecrt=zqsecret"}, []string{"secrt in app.cfg line 3 is not a setting"}},
		{"typo in .env", nil, files{".env": "\nPUSHERURL=" + euURL}, []string{"PUSHERURL in .env line 2 is not a setting of this file and is ignored: valid names are PUSHER_URL, "}},
		{"no credentials", env("PUSHER_SOCKET_URL", "wss://zq"), files{".env": "PUSHER_CLUSTER=zq"},
			[]string{"PUSHER_CLUSTER in .env line 1 is ignored with the embedded Channels server: remove it", "PUSHER_SOCKET_URL is ignored with the embedded Channels server"}},
		{"cluster of a self-hosted server", env("PUSHER_URL", ownURL, "PUSHER_CLUSTER", "zq"), nil, []string{"PUSHER_CLUSTER is ignored with the Channels server"}},
		{"Pusher's add-on sets both", env("PUSHER_URL", euURL, "PUSHER_SOCKET_URL", "ws://ws.pusherapp.com:80/app/zq"), nil, nil},
		{"secret in the wrong place", nil, files{"app.cfg": cfg + "Zqsecret==\n\nzq5ecret="},
			[]string{"a name in app.cfg line 4 is not a setting", "a name in app.cfg line 6 is not a setting"}},
		{"app.cfg beside PUSHER_URL", nil, files{".env": "PUSHER_URL=" + euURL, "app.cfg": "zq"}, []string{"app.cfg is ignored, because PUSHER_URL in .env is set"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := load(t, tt.env, tt.files)
			if !slices.EqualFunc(s.Warnings, tt.want, strings.HasPrefix) {
				t.Errorf("got %q, want %q", s.Warnings, tt.want)
			}
			if strings.Contains(strings.ToLower(strings.Join(s.Warnings, "")), "zq") {
				t.Errorf("a warning shows a value: %q", s.Warnings)
			}
		})
	}
}

// A folder, or a link to a missing file, is an error, not a reason to use the embedded server.
func TestUnreadable(t *testing.T) {
	for name, create := range map[string]func(path string) error{
		".env":    func(path string) error { return os.Mkdir(path, 0o700) },
		"app.cfg": func(path string) error { return os.Symlink("missing", path) },
	} {
		dir := t.TempDir()
		if err := create(filepath.Join(dir, name)); err != nil {
			t.Skip("can't create a symbolic link: ", err)
		}
		if s, err := Load(nil, dir); err == nil || !strings.HasPrefix(err.Error(), name+" can't be read (") {
			t.Errorf("got %+v, %v", s, err)
		}
	}
}

// app.cfg.example works as a template if it is filled in as its comments say.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../app.cfg.example")
	if err != nil {
		t.Fatal(err)
	}
	example := string(data)
	fill := []string{"YOUR_APP_ID", "12", "YOUR_APP_KEY", "zqkey", "YOUR_APP_SECRET", "zqsecret"}
	for i, name := range []string{"ID", "KEY", "SECRET"} { // fill in all values but one
		others := slices.Delete(slices.Clone(fill), 2*i, 2*i+2)
		_, err := load(t, nil, files{"app.cfg": strings.NewReplacer(others...).Replace(example)})
		if err == nil || !strings.HasPrefix(err.Error(), name+" in app.cfg line ") {
			t.Errorf("%s unchanged: %v", name, err)
		}
	}
	filled := strings.NewReplacer(fill...).Replace(example)
	got, err := load(t, nil, files{"app.cfg": filled})
	if err != nil || !reflect.DeepEqual(got, hosted("app.cfg", "api-mt1.pusher.com", "mt1")) {
		t.Errorf("filled in: %+v, %v", got, err)
	}
	self := strings.NewReplacer("#HOST", "HOST", "#SECURE", "SECURE").Replace(filled)
	got, err = load(t, nil, files{"app.cfg": self})
	if err != nil || got.Server.Host != "localhost:6001" || got.Server.SocketURL != "ws://localhost:6001" {
		t.Errorf("self-hosted: %+v, %v", got, err)
	}
}

var (
	idPattern      = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// FuzzLoad replaces zq in its input with a marker, which no error or warning may contain.
func FuzzLoad(f *testing.F) {
	const marker = "zq7Kx"
	for _, tt := range rejected {
		if len(tt.files["app.cfg"]) < 1000 {
			f.Add([]byte(tt.files["app.cfg"]), tt.env["PUSHER_URL"], tt.files[".env"])
		}
	}
	for _, tt := range accepted {
		f.Add([]byte(tt.files["app.cfg"]), tt.env["PUSHER_URL"], tt.files[".env"])
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, cfg []byte, pusherURL, dotenv string) {
		mark := strings.NewReplacer("zq", marker).Replace
		for name, text := range (files{".env": mark(dotenv), "app.cfg": mark(string(cfg))}) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Load([]string{"PUSHER_URL=" + mark(pusherURL)}, dir)
		if warnings := strings.Join(s.Warnings, "\n"); strings.Contains(strings.ToLower(warnings), strings.ToLower(marker)) {
			t.Errorf("a warning shows the secret: %s", warnings)
		}
		if err != nil {
			checkMessage(t, err)
			if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(marker)) {
				t.Errorf("the error shows the secret: %s", err)
			}
			return
		}
		server := s.Server
		if server.Embedded() {
			t.Fatal("app.cfg exists, but is not used")
		}
		if !idPattern.MatchString(server.AppID) || !idPattern.MatchString(server.Key) || server.Secret == "" {
			t.Errorf("not usable: %+v", s)
		}
		name := hostOf(server.Host)
		if name == "" || server.Host != strings.ToLower(server.Host) {
			t.Errorf("not a host: %q", server.Host)
		}
		if isPusher.matches(name) {
			if !server.TLS || !clusterPattern.MatchString(server.Cluster) || server.SocketURL != "" {
				t.Errorf("invalid settings for Pusher: %+v", s)
			}
		} else if u, err := url.Parse(server.SocketURL); err != nil || u.Host == "" || u.RawQuery != "" {
			t.Errorf("not a WebSocket URL: %q", server.SocketURL)
		}
		checkRequest(t, server)
	})
}
