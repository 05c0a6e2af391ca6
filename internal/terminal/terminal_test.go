package terminal

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"pusher-sample/internal/pusherapi"
	"pusher-sample/internal/settings"

	"github.com/pusher/pusher-http-go/v5"
)

// When ready, the program logs its settings. On loopback with the embedded server, it prints commands.
func TestReady(t *testing.T) {
	const hosted = "PUSHER_URL=http://testkey:testsecret@api-eu.pusher.com/apps/1"
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		environ   []string
		at        string
		want, not []string
	}{
		{[]string{"RATE_LIMIT=2"}, "[::1]:5000",
			[]string{"page=http://[::1]:5000/ address=[::1]:5000 ", `events="embedded server"`, "rate_limit=2 trust_proxy=0",
				" in " + folder + `"`, "Open http://[::1]:5000/ in", "@[::1]:5000/apps/1", "./my-sample trigger c e\n",
				"./my-sample -addr [::1]:5001\n"},
			nil},
		{nil, "[::]:5000", []string{"http://127.0.0.1:5000/", " address=[::]:5000"}, []string{"PUSHER_URL=", "[::1]"}},
		{[]string{hosted, "TRUST_PROXY=1"}, "127.0.0.1:5000",
			[]string{"events=api-eu.pusher.com credentials=PUSHER_URL cluster=eu rate_limit=1 trust_proxy=1"},
			[]string{"my-sample", "testkey", "testsecret"}},
		{[]string{hosted, "DYNO=web.1"}, "[::]:5000", []string{"msg=ready address=[::]:5000", "trust_proxy=1"}, []string{"page="}},
	} {
		config, _, err := settings.Load(tt.environ, ".")
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
		for _, not := range append(tt.not, "localhost") {
			if strings.Contains(out.String(), not) {
				t.Errorf("the output has %s:\n%s", not, &out)
			}
		}
	}
}

// The printed commands begin with the command that started the program.
func TestCommand(t *testing.T) {
	for _, tt := range []struct{ goos, program, want string }{
		{"linux", "/tmp/go-build123/b001/exe/pusher-sample", "PUSHER_URL=u go run ."},
		{"linux", "/my apps/pusher-sample", "PUSHER_URL=u '/my apps/pusher-sample'"},
		{"windows", `C:\My Apps\pusher-sample.exe`, `$env:PUSHER_URL='u'; & 'C:\My Apps\pusher-sample.exe'`},
	} {
		if got := command(tt.goos, tt.program, "u"); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

// Trigger sends every event, but says which events the page shows if it may not show this one.
func TestTrigger(t *testing.T) {
	client := &pusher.Client{AppID: "1", Key: "k", Secret: "s", Host: "x"}
	client.HTTPClient = pusherapi.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{}")
	}))
	const hint = "The page shows an alert only for its buttons' events (e, unless you have added others) on c, "
	const shown = `{"message":"hi"}`
	for _, args := range [][]string{{"c", "e", shown}, {"c", "e", "hi"}, {"c", "e", `{"message":1}`}, {"c", "e2"}, {"c2", "e"}} {
		var out bytes.Buffer
		err := Trigger(client, settings.Server{Host: "x"}, args, "c", "e", &out)
		want := "x accepted the event " + args[1] + " on the channel " + args[0] + ".\n"
		got, found := strings.CutPrefix(out.String(), want)
		if err != nil || !found || strings.HasPrefix(got, hint) == (args[len(args)-1] == shown) {
			t.Errorf("%q: %v, printed %s", args, err, &out)
		}
	}
}
