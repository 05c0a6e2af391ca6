package settings

import (
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// input is the environment, one variable per line, and the texts of .env and app.cfg. An empty file doesn't exist.
type input struct{ environ, dotenv, cfg string }

func inEnv(text string) input    { return input{text, "", ""} }
func inDotenv(text string) input { return input{"", text, ""} }
func inCfg(text string) input    { return input{"", "", text} }

// load runs Load with dir, to which it adds the files.
func (in input) load(t testing.TB, dir string) (Settings, []string, error) {
	t.Helper()
	for name, text := range map[string]string{".env": in.dotenv, "app.cfg": in.cfg} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(strings.Split(in.environ, "\n"), dir)
}

const (
	euURL  = "https://zqkey:zqsecret@api-eu.pusher.com/apps/12"
	mt1URL = "https://zqkey:zqsecret@api-mt1.pusher.com/apps/12"
	us2URL = "https://zqkey:zqsecret@api-us2.pusher.com/apps/12"
	ownURL = "http://zqkey:zqsecret@localhost:6001/apps/zq-app"
	idKey  = "ID = '12'\nKEY = 'zqkey'\n"
	cfg    = idKey + "SECRET = 'zqsecret'\n"
)

// withSecret returns euURL with another secret, or with more than a secret.
func withSecret(secret string) string { return strings.Replace(euURL, "zqsecret", secret, 1) }

// withHost returns ownURL with another host.
func withHost(host string) string { return strings.Replace(ownURL, "localhost:6001", host, 1) }

// describe returns the server's source, the URL of its API, and where the page connects.
func describe(s Server) string {
	scheme := map[bool]string{false: "http", true: "https"}[s.TLS]
	api := scheme + "://" + s.Key + ":" + s.Secret + "@" + s.Host + "/apps/" + s.AppID
	return s.Source + " " + api + " " + s.Cluster + strings.TrimPrefix(s.SocketURL, "wss://ws-"+s.Cluster+".pusher.com")
}

var accepted = []struct {
	name string
	in   input
	want string // from describe
}{
	// Where the credentials come from.
	{"environment", input{"PUSHER_URL=" + euURL, "PUSHER_URL=" + ownURL, "nonsense"}, "PUSHER_URL " + euURL + " eu"},
	{".env", input{"PUSHER_URL=", "\nPUSHER_URL=" + euURL, cfg}, "PUSHER_URL in .env line 2 " + euURL + " eu"},
	{"app.cfg", input{"KEY=other", "PUSHER_URL=''", cfg}, "app.cfg " + mt1URL + " mt1"},

	// Which host the app calls, and where the page connects.
	{"old add-on", inEnv("PUSHER_SOCKET_URL=ws://ws.pusherapp.com:80/app/zqkey\n" +
		"PUSHER_URL=http://zqkey:zqsecret@API.pusherapp.com:80/apps/12"), "PUSHER_URL " + mt1URL + " mt1"},
	{"PUSHER_CLUSTER over CLUSTER", input{"PUSHER_CLUSTER=us2", "", cfg + "CLUSTER=eu"}, "app.cfg " + us2URL + " us2"},
	{"CLUSTER over HOST's", inCfg(cfg + "HOST = api-ap1.pusher.com\nCLUSTER = us2"), "app.cfg " + us2URL + " us2"},
	{"self-hosted", inEnv("PUSHER_URL=" + ownURL + "/"), "PUSHER_URL " + ownURL + " ws://localhost:6001"},
	{"self-hosted, TLS", inEnv("PUSHER_URL=" + strings.Replace(withHost("NotPusher.com"), "http", "https", 1)),
		"PUSHER_URL https://zqkey:zqsecret@notpusher.com/apps/zq-app wss://notpusher.com"},
	{"IPv6", inEnv("PUSHER_URL=" + withHost("[::1]:80")), "PUSHER_URL " + withHost("[::1]:80") + " ws://[::1]:80"},
	{"SECURE", inCfg(cfg + "HOST = a_b\nSECURE = True"), "app.cfg https://zqkey:zqsecret@a_b/apps/12 wss://a_b"},
	{"PUSHER_SOCKET_URL", input{"PUSHER_URL=" + ownURL, "PUSHER_SOCKET_URL=wss://ws.example.org/a/b-c/", ""},
		"PUSHER_URL " + ownURL + " wss://ws.example.org/a/b-c"},
	{"PUSHER_SOCKET_URL with /app/KEY", input{"PUSHER_SOCKET_URL=ws://h/app/zqkey", "PUSHER_URL=" + ownURL, ""},
		"PUSHER_URL in .env line 1 " + ownURL + " ws://h"},

	// The syntax of the files, and secrets.
	{"as the sample had it", inCfg("# -*- encoding: utf-8 -*-\n\nID = '12'\nKEY = \"zqkey\"\nSECRET='zqsecret' # '\n"),
		"app.cfg " + mt1URL + " mt1"},
	{"as the dashboard shows it", inCfg("app_id = \"12\"\nkey = \"zqkey\"\nsecret = \"zqsecret\"\ncluster = \"eu\"\n"),
		"app.cfg " + euURL + " eu"},
	{"byte order mark, CRLF, export, empty values", inCfg("\ufeffID = 12 # c\r\n\texport\tKEY=zqkey\t# # c\r\n" +
		"SECRET = 'zqsecret'\r\nCLUSTER = ''\r\nHOST = # none\r\nSECURE=\r\n"), "app.cfg " + mt1URL + " mt1"},
	{"percent-encoded secret", inEnv("PUSHER_URL=" + withSecret("%2F%40%23%3F%25%24+")),
		"PUSHER_URL " + withSecret("/@#?%$+") + " eu"},
}

func TestLoad(t *testing.T) {
	for _, tt := range accepted {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := tt.in.load(t, t.TempDir())
			if err != nil || describe(got.Server) != tt.want {
				t.Errorf("got %s, %v; want %s", describe(got.Server), err, tt.want)
			}
		})
	}
}

// TestLoadOthers tests the settings that don't describe the server.
func TestLoadOthers(t *testing.T) {
	const local = "127.0.0.1:5000"
	for _, tt := range []struct {
		name, environ, dotenv string
		want                  Settings
	}{
		{"empty counts as unset", "PORT=\nDYNO=", "TRUST_PROXY=", Settings{Addr: local, RateLimit: 1}},
		{"environment before .env", "PORT=1", "PORT=2\nRATE_LIMIT=0\nTRUST_PROXY=2", Settings{Addr: ":1", Proxies: 2}},
		{"Heroku", "DYNO=a", "RATE_LIMIT=0.5", Settings{Addr: local, RateLimit: 0.5, Proxies: 1, Heroku: true}},
		{"Heroku without proxies", "DYNO=a\nTRUST_PROXY=0", "", Settings{Addr: local, RateLimit: 1, Heroku: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := input{tt.environ, tt.dotenv, ""}.load(t, t.TempDir())
			server := got.Server
			if !server.Embedded() || server.AppID != "1" || server.Key != "local" || len(server.Secret) < 20 {
				t.Errorf("got %+v, want the embedded server", server)
			}
			got.Server = Server{}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

// In each row, zq marks the values that errors must not show.
var rejected = []struct {
	in   input
	want string // how the error begins
}{
	{inEnv(`PUSHER_URL="` + euURL + `"`), "PUSHER_URL is in quotes"},
	{inEnv("PUSHER_URL=" + withSecret("<zqsecret>")), "PUSHER_URL contains < or >"},
	{inEnv("PUSHER_URL= " + euURL), "PUSHER_URL contains a space"},
	{input{"PUSHER_URL=zq", "", cfg}, "PUSHER_URL must begin with https://"},
	{inEnv("PUSHER_URL=https://dashboard.pusher.com/apps/zq"), "PUSHER_URL is the address of Pusher's dashboard"},
	{inEnv("PUSHER_URL=" + withSecret("zq/")), "PUSHER_URL must have KEY:SECRET@HOST"},
	{inEnv("PUSHER_URL=" + withSecret("zq%zq")), "PUSHER_URL must have KEY:SECRET@HOST"},
	{inEnv("PUSHER_URL=" + euURL + "?zq"), "PUSHER_URL must end with /apps/ID"},
	{inEnv("PUSHER_URL=" + credentialsURL), "ID in PUSHER_URL must be your app's own value"},
	{inEnv("PUSHER_URL=" + withHost("api-CLUSTER.pusher.com")), "HOST in PUSHER_URL must be your app's own value"},
	{inDotenv("PUSHER_URL=https://zq&key:" + euURL[14:]), "KEY in PUSHER_URL in .env line 1 must consist of letters"},
	{inEnv("PUSHER_URL=" + withHost("localhost:zq")), "HOST in PUSHER_URL is not a host"},
	{inEnv("PUSHER_URL=" + withHost("localhost:65536")), "HOST in PUSHER_URL is not a host"},
	{inEnv("PUSHER_URL=" + withHost("eu.Pusher.com")), "HOST in PUSHER_URL is not the host of Pusher's API"},
	{inEnv("PUSHER_URL=" + withHost("[1:2:3]")), "HOST in PUSHER_URL is not a host"},
	{inEnv("PUSHER_CLUSTER=api-zq.pusher.com"), "PUSHER_CLUSTER is not the name of a cluster"},
	{inEnv("PUSHER_SOCKET_URL=https://zq"), "PUSHER_SOCKET_URL must have the form"},
	{inDotenv("# c\nPORT=zq"), "PORT in .env line 2 is not a port"},
	{inEnv("PORT=65536"), "PORT is not a port"},
	{inEnv("RATE_LIMIT=1000000"), "RATE_LIMIT is not a rate"},
	{inEnv("TRUST_PROXY=10"), "TRUST_PROXY is not a number of proxies"},

	{inCfg("\n"), "app.cfg has no value for ID"},
	{inCfg("ID=12\nKEY=zqkey\nSECRET="), "app.cfg has no value for SECRET"},
	{inCfg(idKey + "SECRET='<zqsecret>'"), "SECRET in app.cfg line 3 must be your app's own value"},
	{inCfg(idKey + "SECRET='zqsecret\u200b'"), "SECRET in app.cfg line 3 must not contain a space"},
	{inCfg(cfg + "App_Secret=zqother"), "SECRET in app.cfg line 4 differs from SECRET in app.cfg line 3"},
	{inCfg(cfg + "CLUSTER=ZQ"), "CLUSTER in app.cfg line 4 is not the name of a cluster"},
	{inCfg(cfg + "SECURE=zq"), "SECURE in app.cfg line 4 is neither true nor false"},
	{inCfg(cfg + "HOST='0.0.0.0'"), "HOST in app.cfg line 4 is not the address of a server"},
	{inDotenv("PORT=1\nPUSHER_URL " + euURL), ".env line 2 must have the form"},
	{inEnv("PUSHER_URL=" + ownURL + "\nPUSHER_SOCKET_URL=ws://[1:2:3]"), "PUSHER_SOCKET_URL must have the form"},
	{inCfg("\xff\xfeI\x00D\x00=\x001\x00z\x00q\x00"), "app.cfg line 1 must have the form"}, // UTF-16
	{inCfg("ID=12\nSECRET='zqsecret\nKEY='zqkey'"), "SECRET in app.cfg line 2 must be in quotes"},
}

func TestLoadRejects(t *testing.T) {
	for _, tt := range rejected {
		t.Run(tt.want, func(t *testing.T) {
			s, _, err := tt.in.load(t, t.TempDir())
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Fatalf("%q: got %+v, %v", tt.in, s, err)
			}
			checkMessage(t, err, "zq")
		})
	}
}

// Load reads values as they are written, or rejects them.
func TestValues(t *testing.T) {
	const special = "must be in quotes if it contains"
	for text, want := range map[string]string{ // the secret, or a part of the error
		"zq-1.~:/=%,;&*+[]{}!": "zq-1.~:/=%,;&*+[]{}!", " zq # c # d": "zq", `'zq"#'`: `zq"#`, "'é柱\xff'": "é柱\xff",
		`'$a$B${C}\$\\\n'`: `$a$B${C}\$\\\n`, `"zq'" # c`: "zq'", `"zq'"# c`: special, `'zq`: special,
		"zq$": special, `zq\`: special, "zq#zq": special, "#zq": special, "zq'": special, "zq zq": special,
		"zq\xff": special, "\u00a0'zq'zq": special, `"zq"zq`: special, // godotenv reads zq\ufffd, zq and zq
		`"$zq"`: special, `"zq\n"`: special, `'zq\'`: special, `'zq\' # don't`: special,
	} {
		s, _, err := inCfg(idKey+"SECRET="+text).load(t, t.TempDir())
		if s.Server.Secret != want && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %q, %v; want %q", text, s.Server.Secret, err, want)
		}
	}
}

var placePattern = regexp.MustCompile(
	`^([A-Z_]+( in PUSHER_URL)?( in (app\.cfg|\.env) line \d+)?|(app\.cfg|\.env)( line \d+)?) [a-z]`)

// checkMessage checks that an error begins with a setting or a file, has one line, is short, and doesn't show a secret.
func checkMessage(t *testing.T, err error, secret string) {
	t.Helper()
	message := err.Error()
	if !placePattern.MatchString(message) || strings.Contains(message, "\n") || len(message) > 400 {
		t.Errorf("the error doesn't begin with a setting or a file, has several lines, or is too long: %q", message)
	}
	if strings.Contains(strings.ToLower(message), secret) {
		t.Errorf("the error shows the secret: %s", message)
	}
}

func TestWarnings(t *testing.T) {
	const unknown = " has an unknown name and is ignored: "
	for _, tt := range []struct {
		in   input
		want []string // how each warning begins
	}{
		{inDotenv("RATE_LIMT=zq\n#PUSHER=zq"), nil},
		{inDotenv("# c\n\nA='zq\nzq+/=='"), []string{".env line 4 is ignored, because"}},
		{inDotenv("PUSHER_APP_ID: 12\n\nPusher_key=zq"),
			[]string{".env line 1" + unknown + "combine", ".env line 3" + unknown + "valid"}},
		{inCfg("zqsecret=\nPORT=zq"), []string{"app.cfg line 1" + unknown, "app.cfg line 2" + unknown}}, // and an error
		{input{"PUSHER_URL=" + euURL, "", cfg}, []string{"app.cfg is ignored, because PUSHER_URL is set"}},
		{input{"PUSHER_SOCKET_URL=ws://zq", "", ""}, []string{"PUSHER_SOCKET_URL is not used without PUSHER_URL"}},
		{input{"PUSHER_CLUSTER=eu", "", ""}, []string{"PUSHER_CLUSTER is not used with the embedded"}},
	} {
		_, warnings, _ := tt.in.load(t, t.TempDir())
		shown := strings.Contains(strings.Join(warnings, ""), "zq")
		if !slices.EqualFunc(warnings, tt.want, strings.HasPrefix) || shown {
			t.Errorf("%q: got %q, want %q", tt.in, warnings, tt.want)
		}
	}
}

// A file that can't be read is an error, not a reason to use the embedded server.
func TestUnreadable(t *testing.T) {
	for _, name := range []string{".env", "app.cfg"} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if s, _, err := Load(nil, dir); err == nil || !strings.HasPrefix(err.Error(), name+" can't be read (") {
			t.Errorf("got %+v, %v", s, err)
		}
	}
}

// app.cfg.example works as a template if it is filled in as its comments say.
func TestExample(t *testing.T) {
	data, _ := os.ReadFile("../../app.cfg.example")
	text := string(data)
	for name, value := range map[string]string{"ID": "12", "KEY": "zqkey", "SECRET": "zqsecret"} {
		text = strings.Replace(text, "YOUR_APP_"+name, value, 1)
	}
	self := strings.NewReplacer("#HOST", "HOST", "#SECURE", "SECURE").Replace(text)
	for text, want := range map[string]string{
		text: "app.cfg " + mt1URL + " mt1",
		self: "app.cfg http://zqkey:zqsecret@localhost:6001/apps/12 ws://localhost:6001",
		strings.Replace(text, "12", "YOUR_APP_ID", 1): "ID in app.cfg line 3 must be your app's own value",
	} {
		got, _, err := inCfg(text).load(t, t.TempDir())
		if describe(got.Server) != want && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("got %s, %v; want %s", describe(got.Server), err, want)
		}
	}
}

// FuzzLoad replaces zq in its input with a marker, which no error or warning may contain.
func FuzzLoad(f *testing.F) {
	const marker = "zq7kx"
	for _, tt := range rejected {
		f.Add(tt.in.environ, tt.in.dotenv, tt.in.cfg)
	}
	for _, tt := range accepted {
		f.Add(tt.in.environ, tt.in.dotenv, tt.in.cfg)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, environ, dotenv, cfg string) {
		mark := strings.NewReplacer("zq", marker).Replace
		in := input{mark(environ), mark(dotenv) + "\n", mark(cfg) + "\n"}
		s, warnings, err := in.load(t, dir)
		if strings.Contains(strings.ToLower(strings.Join(warnings, "\n")), marker) {
			t.Errorf("a warning shows the secret: %q", warnings)
		}
		if err != nil {
			checkMessage(t, err, marker)
			return
		}
		server := s.Server
		if server.Embedded() || server.Secret == "" {
			t.Fatalf("app.cfg exists, but is not used: %+v", server)
		}
		if server.Source == "app.cfg" && !strings.Contains(in.cfg, server.Secret) {
			t.Errorf("the secret %q is not in the file", server.Secret)
		}
		path := "/apps/" + server.AppID
		api, err := url.Parse("http://" + server.Host + path + "?auth_key=" + server.Key) // as in pusher-http-go
		if err != nil || api.Host != server.Host || api.Path != path || api.Query().Get("auth_key") != server.Key {
			t.Errorf("not the URL of an HTTP API: %v, %v", api, err)
		}
		if strings.HasSuffix(server.Host, ".pusher.com") {
			if !server.TLS || server.Cluster == "" || !strings.HasSuffix(server.SocketURL, server.Cluster+".pusher.com") {
				t.Errorf("invalid settings for Pusher: %+v", s)
			}
		} else if u, err := url.Parse(server.SocketURL); err != nil || u.Host == "" || u.RawQuery != "" {
			t.Errorf("not a WebSocket URL: %q", server.SocketURL)
		}
	})
}
