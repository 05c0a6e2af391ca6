// Tests that the README is correct: its commands, settings, messages, file names and nginx
// configuration.
package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pusher-sample/internal/pushertest"
)

// readme returns the text of the README.
func readme(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the part of the README under a heading, up to the next ## heading.
func section(t testing.TB, heading string) string {
	t.Helper()
	_, text, ok := strings.Cut(readme(t), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("the README has no heading %s", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// find returns the first group of each match of pattern in text. It fails if nothing matches.
func find(t testing.TB, pattern, text string) []string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	if found == nil {
		t.Fatalf("nothing matches %s in:\n%s", pattern, text)
	}
	return found
}

// The README's table lists exactly the settings and flags that the program has.
func TestReadmeSettings(t *testing.T) {
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	usage, err := exec.Command(binary, "-h").Output()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../app.cfg.example")
	if err != nil {
		t.Fatal(err)
	}
	want := append(find(t, `(?m)^  (-[a-z]+|[A-Z_]+)\s`, string(usage)), find(t, `(?m)^#?([A-Z]+) = `, string(example))...)
	var got []string
	for _, names := range find(t, `(?m)^\| (.*?) \|`, section(t, "## Settings and flags")) {
		for _, name := range regexp.MustCompile("`(-?[A-Za-z_]+)").FindAllStringSubmatch(names, -1) {
			got = append(got, name[1])
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the table has %v, the program %v", got, want)
	}
}

// The messages under Troubleshooting occur in the source, except for … and close codes, which stand for variable text.
func TestReadmeMessages(t *testing.T) {
	var source bytes.Buffer
	for _, pattern := range []string{"../../*.go", "../../internal/*/*.go", "../../static/*.js"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	for _, message := range find(t, "(?m)^\\| `(.+?)`", section(t, "## Troubleshooting")) {
		for _, part := range regexp.MustCompile(`…| \(code \d+\)`).Split(message, -1) {
			part = strings.TrimPrefix(part, "127.0.0.1:5000")
			if !strings.Contains(source.String(), part) {
				t.Errorf("%q: no source has %q", message, part)
			}
		}
	}
}

// The files and tests that the README mentions exist.
func TestReadmeNames(t *testing.T) {
	text := readme(t)
	names := append(find(t, "`([A-Za-z.][\\w.-]*(?:/[\\w.-]+)*(?:/|\\.[a-z]+))`", text), find(t, `\]\((\.[^)]+)\)`, text)...)
	for _, name := range append(names, find(t, "`(internal/[a-z0-9]+)`", text)...) {
		if name == "app.cfg" || name == ".env" { // created by the reader
			continue
		}
		if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range find(t, `(?m)^go test -run (\w+) \./internal/e2e$`, text) {
		files, err := filepath.Glob("*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			source, _ := os.ReadFile(file)
			return bytes.Contains(source, []byte("\nfunc "+name+"("))
		}) {
			t.Errorf("there is no test %s", name)
		}
	}
}

// The README's trigger commands work as written. (.ci/run runs its first go test command.)
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	if first := find(t, `(?m)^(go test .*)$`, readme(t))[0]; first != "go test ./..." {
		t.Errorf("the README's first go test command is %q, want %q", first, "go test ./...")
	}
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	app, event := start(t), sampleEvent(t)
	for _, command := range find(t, `(?m)^go run \. (trigger.*)$`, readme(t)) {
		channel, data := "test_channel", `hello world`
		if strings.Contains(command, "channel1") {
			channel, data = "channel1", `hi`
		}
		client := pushertest.Subscribe(t, app.url, "local", channel)
		cmd := exec.Command("sh", "-c", binary+" "+command)
		cmd.Dir, cmd.Env = t.TempDir(), []string{"PUSHER_URL=" + app.pusherURL()}
		out, err := cmd.CombinedOutput()
		lines := 2 // the result, and that the page shows no alert
		if strings.HasPrefix(command, "trigger "+event.channel+" "+event.name+" ") {
			lines = 1
		}
		if err != nil || strings.Count(string(out), "\n") != lines || !strings.Contains(string(out), " accepted the event ") {
			t.Errorf("%s: %v, printed %s, want %d lines", command, err, out, lines)
		}
		if got := client.Next(t); !strings.Contains(got, `:\"`+data+`\"`) {
			t.Errorf("%s: received %s", command, got)
		}
	}

	// The program prints what the README shows for another terminal.
	printed := strings.NewReplacer("channel1 event1", event.channel+" "+event.name, "127.0.0.1:5000", strings.TrimPrefix(app.url, "http://"), "127.0.0.1:5001", `\S+`, "SECRET", `\w+`, "go run .", `\S+`, ".", `\.`).
		Replace(section(t, "## Several instances and self-hosted servers"))
	for _, line := range find(t, `(?m)^(In another terminal.*|  PUSHER_URL.*)$`, printed) {
		pushertest.WaitFor(t, line, func() bool {
			return regexp.MustCompile(`(?m)^` + line + `$`).MatchString(app.logged())
		})
	}
}

// nginx works with the README's configuration, with TLS and without: it forwards the page,
// WebSockets, and the client's address and scheme.
func TestReadmeProxy(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the configuration is for Debian; other systems have only one loopback address")
	}
	block := find(t, "(?s)\n```nginx\n(.*?)```", readme(t))[0]
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			app := start(t, "TRUST_PROXY=1", "RATE_LIMIT=0.001") // one click per client
			address := freeAddress(t)
			site := block
			replace := func(old, new string) {
				if strings.Count(site, old) != 1 {
					t.Fatalf("%s does not occur exactly once in:\n%s", old, site)
				}
				site = strings.Replace(site, old, new, 1)
			}
			replace("http://127.0.0.1:5000;", app.url+";")
			if scheme == "http" { // as the README says for plain HTTP
				site = regexp.MustCompile(`(?m)^.*ssl.*\n`).ReplaceAllString(site, "")
				replace("listen 80;", "listen "+address+";")
			} else {
				replace("listen 80;", "")
				replace("listen 443 ssl;", "listen "+address+" ssl;")
				replace("/etc/ssl/certs/example.org.pem", "certificate")
				replace("/etc/ssl/private/example.org.key", "key")
			}
			startNginx(t, site, address)
			url := scheme + "://" + address

			resp, text := requestFrom(t, "127.0.0.1", "GET", url+"/")
			if resp.StatusCode != 200 || !strings.Contains(text, "<button") {
				t.Errorf("the page: %d %v", resp.StatusCode, resp.Header)
			}
			for _, click := range []struct {
				from string
				want int
			}{{"127.0.0.1", 200}, {"127.0.0.1", 429}, {"127.0.0.2", 200}} {
				if resp, text := requestFrom(t, click.from, "POST", url+"/pusher"); resp.StatusCode != click.want {
					t.Errorf("a click from %s: %d %s, want %d", click.from, resp.StatusCode, text, click.want)
				}
			}
			t.Run("browser", func(t *testing.T) {
				p := newTab(t, served)
				p.open(strings.Replace(url, "127.0.0.1", "example.localhost", 1), "connected") // Chromium resolves it to loopback
				requestFrom(t, "127.0.0.3", "POST", url+"/pusher")
				p.wantAlert()
			})
		})
	}
}

// requestFrom sends a request from a loopback address, with a forged X-Forwarded-For.
func requestFrom(t testing.TB, address, method, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	client := &http.Client{Transport: &http.Transport{
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}
