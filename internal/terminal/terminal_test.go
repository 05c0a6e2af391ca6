package terminal

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"

	"github.com/pusher/pusher-http-go/v5"
)

// The error for an address that is malformed or in use is real; those for other causes are constructed.
func TestErrors(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	taken := first.Addr().String()
	listen := func(addr string) error { _, err := Listen(addr); return err }
	bind := func(err error) error { return explain(&net.OpError{Err: os.NewSyscallError("bind", err)}, ":80") }
	for _, tt := range []struct {
		err  error
		want string
	}{
		{listen(taken), taken + " is already in use by another program.* -addr " + nextAddr(taken) + "$"},
		{listen("5001"), `^can't listen on 5001 \(.* -addr to HOST:PORT`},
		{listen("http://localhost:5000"), `^can't listen on http://localhost:5000 \(.* -addr to HOST:PORT`},
		{bind(syscall.Errno(10048)), "^:80 is already in use"}, // WSAEADDRINUSE
		{bind(syscall.EACCES), "^no permission to listen on :80.* -addr "},
		{bind(syscall.Errno(10013)), "^no permission to listen on :80"}, // WSAEACCES
	} {
		if !regexp.MustCompile(tt.want).MatchString(fmt.Sprint(tt.err)) {
			t.Errorf("got %v, want %s", tt.err, tt.want)
		}
	}
}

func TestNextAddr(t *testing.T) {
	for addr, want := range map[string]string{"[::1]:5001": "[::1]:5002", ":65535": ":1", "127.0.0.1:http": "127.0.0.1:81"} {
		if got := nextAddr(addr); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestPageURL(t *testing.T) {
	for addr, want := range map[string]string{
		"[::1]:5000":   "http://[::1]:5000/",
		"[::]:5000":    "http://127.0.0.1:5000/",
		"0.0.0.0:5000": "http://127.0.0.1:5000/",
	} {
		at, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := PageURL(at); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
	for url := range strings.FieldsSeq(networkURLs(5000)) {
		if !regexp.MustCompile(`^http://[\d.]+:5000/$`).MatchString(url) || strings.Contains(url, "/127.") {
			t.Errorf("other devices can't open %s", url)
		}
	}
}

// When ready, the program logs its settings. On loopback with the embedded server, it prints commands.
func TestReady(t *testing.T) {
	const hosted = "http://testkey:testsecret@api-eu.pusher.com/apps/1"
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		environ   []string
		at        string
		want, not []string
	}{
		{"embedded, loopback", []string{"RATE_LIMIT=2"}, "127.0.0.1:5000",
			[]string{"page=http://127.0.0.1:5000/ address=127.0.0.1:5000 ", `events="embedded server"`,
				"rate_limit=2 trust_proxy=0", " in " + folder + `"`, "Open http://127.0.0.1:5000/ in", "@127.0.0.1:5000/apps/1",
				"./my-sample trigger c e\n", "./my-sample -addr 127.0.0.1:5001\n"},
			[]string{"localhost", "network"}},
		{"embedded, all interfaces", nil, "[::]:5000",
			[]string{"page=http://127.0.0.1:5000/ address=[::]:5000", "other devices"}, []string{"localhost", "PUSHER_URL"}},
		{"hosted", []string{"PUSHER_URL=" + hosted, "TRUST_PROXY=1"}, "127.0.0.1:5000",
			[]string{"events=api-eu.pusher.com credentials=PUSHER_URL cluster=eu rate_limit=1 trust_proxy=1"},
			[]string{"my-sample", "testkey", "testsecret"}},
		{"Heroku", []string{"PUSHER_URL=" + hosted, "DYNO=web.1"}, "[::]:5000",
			[]string{"msg=ready address=[::]:5000", "trust_proxy=1"}, []string{"page=", "localhost", "127.0.0.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, err := settings.Load(tt.environ, ".")
			if err != nil {
				t.Fatal(err)
			}
			at, err := net.ResolveTCPAddr("tcp", tt.at)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			Ready(config, at, "./my-sample", "c", "e", slog.New(slog.NewTextHandler(&out, nil)), &out)
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the output has no %s:\n%s", want, &out)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(out.String(), not) {
					t.Errorf("the output has %s:\n%s", not, &out)
				}
			}
		})
	}
}

// The printed commands begin with the command that started the program.
func TestCommand(t *testing.T) {
	for _, tt := range []struct{ goos, program, want string }{
		{"linux", "/tmp/go-build123/b001/exe/pusher-sample", "PUSHER_URL=u go run ."},
		{"linux", "./pusher-sample", "PUSHER_URL=u ./pusher-sample"},
		{"linux", "/my apps/pusher-sample", "PUSHER_URL=u '/my apps/pusher-sample'"},
		{"windows", `C:\Temp\go-build123\b001\exe\pusher-sample.exe`, "$env:PUSHER_URL='u'; go run ."},
		{"windows", `C:\My Apps\pusher-sample.exe`, `$env:PUSHER_URL='u'; & 'C:\My Apps\pusher-sample.exe'`},
	} {
		if got := command(tt.goos, tt.program, "u"); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// Trigger sends every event, but warns if the page shows no alert for it.
func TestTriggerWarnings(t *testing.T) {
	client := &pusher.Client{AppID: "1", Key: "k", Secret: "s", Host: "x"}
	client.HTTPClient = pusherapi.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{}")
	}))
	for _, tt := range []struct {
		channel, event, data string
		warning              string
	}{
		{"c", "e", `{"message":"hi"}`, ""},
		{"c", "e", "hi", "DATA must be"},
		{"c", "e", `{"message":1}`, "DATA must be"},
		{"c", "of-another-button", `{"message":"hi"}`, `data-event="of-another-button"`},
		{"other", "e", "hi", "it subscribes only to c"},
	} {
		var out bytes.Buffer
		err := Trigger(client, settings.Server{Host: "x"}, []string{tt.channel, tt.event, tt.data}, "c", "e", &out)
		result, warning, _ := strings.Cut(out.String(), "\n")
		if err != nil || !strings.Contains(result, " accepted the event "+tt.event) {
			t.Errorf("%s on %s: %v, printed %q", tt.data, tt.channel, err, result)
		}
		if (warning == "") != (tt.warning == "") || !strings.Contains(warning, tt.warning) {
			t.Errorf("%s on %s: warning %q, want %q", tt.data, tt.channel, warning, tt.warning)
		}
	}
}
