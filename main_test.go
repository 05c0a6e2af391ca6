// In-process tests of the app: the handlers' responses and the program's commands. Tests that run the built program are
// in internal/e2e.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/socket"
	"pusher-sample/internal/settings"

	"github.com/coder/websocket"
)

// startApp serves the app in this process, with the environment env.
func startApp(t testing.TB, env map[string]string) *httptest.Server {
	t.Helper()
	config, err := settings.Load(environ(env), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, newTestApp(t, config, pushertest.Log(t)))
}

// environ returns env in the form of os.Environ.
func environ(env map[string]string) []string {
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// newTestApp returns an app that logs at all levels to log.
func newTestApp(t testing.TB, config settings.Settings, log io.Writer) *app {
	a := newApp(config, false, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if a.channels != nil {
		t.Cleanup(a.channels.Close)
	}
	return a
}

// serve serves a on a loopback address until the end of the test.
func serve(t testing.TB, a *app) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	handler, err := a.handler(server.Listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = handler
	server.Start()
	t.Cleanup(server.Close)
	return server
}

func TestPage(t *testing.T) {
	_, page := pushertest.Request(t, "GET", startApp(t, nil).URL)
	for _, want := range []string{
		"<title>Pusher Test</title>", `<button class="push"`, `data-channel="` + channel + `"`, `data-event="` + event + `"`,
		`https://js.pusher.com/8.6.0/pusher.min.js`, `integrity="sha384-`, `crossorigin="anonymous"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if found := regexp.MustCompile(`<style|style=|<script>|\son[a-z]+=`).FindString(page); found != "" {
		t.Errorf("the page has %s, which its policy forbids", found)
	}
}

func TestRoutes(t *testing.T) {
	server := startApp(t, nil).URL
	hosted := startApp(t, map[string]string{"PUSHER_URL": "https://k:s@api-eu.pusher.com/apps/1"}).URL
	tests := []struct {
		method, url string
		want        int
		text        string
	}{
		{"GET", server + "/", 200, "<title>"},
		{"POST", server + "/", 405, "Method Not Allowed"},
		{"POST", server + "/pusher", 200, "ok"},
		{"GET", server + "/pusher", 405, "Method Not Allowed"},
		{"GET", server + "/healthz", 200, "ok"},
		{"GET", server + "/static/app.js", 200, "new Pusher("},
		{"GET", server + "/app.cfg", 404, "404 page not found"},
		{"GET", server + "/app/local", 426, "WebSocket"},
		{"POST", server + "/apps/1/events", 401, "sign every request"},
		{"GET", hosted + "/app/k", 404, "404 page not found"},
		{"POST", hosted + "/apps/1/events", 404, "404 page not found"},
	}
	for _, tt := range tests {
		resp, text := pushertest.Request(t, tt.method, tt.url)
		if resp.StatusCode != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s %s: status %d, %.80q; want %d, %q", tt.method, tt.url, resp.StatusCode, text, tt.want, tt.text)
		}
	}
}

// The page and its Content-Security-Policy name the Channels server from the settings.
func TestPageUsesConfiguredServer(t *testing.T) {
	const self, eu, own = "connect-src 'self'", "http://k:s@api-eu.pusher.com/apps/1", "https://k:s@own.example:6001/apps/1"
	tests := []struct {
		name    string
		env     map[string]string
		page    string
		connect string // connect-src in the policy
	}{
		{"embedded", nil, `data-key="local" data-cluster="" data-socket=""`, self + ";"},
		{"cluster", map[string]string{"PUSHER_URL": eu}, `data-key="k" data-cluster="eu" data-socket=""`, self + " wss://ws-eu."},
		{"self-hosted", map[string]string{"PUSHER_URL": own}, `data-socket="wss://own.example:6001"`, self + " wss://own.example:6001;"},
		{"Heroku without PUSHER_URL", map[string]string{"DYNO": "web.1"}, "each dyno runs its own embedded server", self},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, page := pushertest.Request(t, "GET", startApp(t, tt.env).URL)
			if !strings.Contains(page, tt.page) || strings.Contains(page, "secret") {
				t.Errorf("want %s, and no secret, in:\n%s", tt.page, page)
			}
			if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, tt.connect) {
				t.Errorf("policy %s; want %s", policy, tt.connect)
			}
		})
	}
}

func TestClickTriggersOneEvent(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.PusherURL})
	if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher"); resp.StatusCode != 200 || text != "ok" {
		t.Errorf("got %d %q", resp.StatusCode, text)
	}
	data, _ := json.Marshal(map[string]string{"message": message})
	event, _ := json.Marshal(map[string]any{"name": event, "channels": []string{channel}, "data": string(data)})
	want := string(event)
	if got := upstream.Events(); len(got) != 1 || got[0] != want {
		t.Errorf("the server accepted %s, want %s", got, want)
	}
}

// A failed click is explained to visitors without the host of a self-hosted server, which is in the log.
func TestFailedClick(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	host := strings.TrimPrefix(closed.URL, "http://")
	config, err := settings.Load([]string{"PUSHER_URL=http://k:testsecret@" + host + "/apps/1"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	app := serve(t, newTestApp(t, config, io.MultiWriter(&log, pushertest.Log(t))))
	resp, text := pushertest.Request(t, "POST", app.URL+"/pusher")
	if resp.StatusCode != 502 || !strings.HasPrefix(text, "The Channels server refused") || strings.Contains(text, host) {
		t.Errorf("got %d %q", resp.StatusCode, text)
	}
	if !strings.Contains(log.String(), "server="+host) || !strings.Contains(log.String(), `error="dial tcp `+host) {
		t.Errorf("the log has no host or no original error: %s", &log)
	}
}

func TestRateLimitAndCrossSite(t *testing.T) {
	app := startApp(t, map[string]string{"RATE_LIMIT": "0.001"}) // one click per 1,000 s
	for i, tt := range []struct {
		header []string
		want   int
	}{
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403}, // doesn't count
		{[]string{"Sec-Fetch-Site", "same-origin", "Origin", app.URL}, 200},
		{nil, 429},
	} {
		if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher", tt.header...); resp.StatusCode != tt.want {
			t.Errorf("click %d: %d %s; want %d", i, resp.StatusCode, text, tt.want)
		}
	}
}

// Each of 300 simultaneous clicks gets a response, and each "ok" means that one event was sent. More clicks than
// connections to the server are in flight, so some wait, and on a busy machine, some time out.
func TestManyClicksAtOnce(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.PusherURL, "RATE_LIMIT": "0"})
	var clicks sync.WaitGroup
	var got pushertest.Clicks
	for range 300 {
		clicks.Go(func() { got.Click(app.URL) })
	}
	clicks.Wait()
	if ok, late := got.Count("200 ok"), got.Count("504 "); ok == 0 || ok+late != 300 || len(upstream.Events()) < ok {
		t.Errorf("%d events for these responses: %v", len(upstream.Events()), got.Responses())
	}
}

// One instance can use the embedded server of another instance.
func TestEmbeddedServerServesAnotherInstance(t *testing.T) {
	config, err := settings.Load(nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first := serve(t, newTestApp(t, config, pushertest.Log(t)))
	url := strings.Replace(first.URL, "//", "//local:"+config.Server.Secret+"@", 1) + "/apps/1"
	second := startApp(t, map[string]string{"PUSHER_URL": url})
	client := socket.Subscribe(t, first.URL, config.Server.Key, channel)
	pushertest.Request(t, "POST", second.URL+"/pusher")
	client.WantEvent(channel, event, `{"message":"`+message+`"}`)
}

// The embedded server accepts WebSockets from the same pages as the app accepts clicks from, also behind proxies.
func TestWebSocketOrigins(t *testing.T) {
	for _, tt := range []struct{ proxies, host, forwardedHost, origin, want string }{
		{"1", "app.example:443", "", "https://app.example", "connection_established"},
		{"1", "127.0.0.1:5000", "name.tunnel.example", "https://name.tunnel.example", "connection_established"},
		{"1", "127.0.0.1:5000", "name.tunnel.example", "http://localhost:5000", "connection_established"},
		{"1", "127.0.0.1:5000", "name.tunnel.example", "https://evil.example", "4009"},
		{"0", "127.0.0.1:5000", "evil.example", "https://evil.example", "4009"},
	} {
		server := startApp(t, map[string]string{"TRUST_PROXY": tt.proxies})
		header := http.Header{"Origin": {tt.origin}}
		if tt.forwardedHost != "" {
			header.Set("X-Forwarded-Host", tt.forwardedHost)
		}
		conn, _, err := websocket.Dial(t.Context(), server.URL+"/app/local?protocol=7",
			&websocket.DialOptions{Host: tt.host, HTTPHeader: header})
		if err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("%+v: received %s, %v", tt, got, err)
		}
		conn.CloseNow()
	}
}

// runProgram calls run in an empty folder.
func runProgram(t *testing.T, env map[string]string, args ...string) (stdout string, err error) {
	t.Helper()
	t.Chdir(t.TempDir())
	var out bytes.Buffer
	err = run(t.Context(), append([]string{"pusher-sample"}, args...), environ(env), &out, io.Discard)
	return out.String(), err
}

func TestTriggerCommand(t *testing.T) {
	upstream := pushertest.NewServer(t)
	env := map[string]string{"PUSHER_URL": upstream.PusherURL}
	wrong := map[string]string{"PUSHER_URL": strings.Replace(upstream.PusherURL, "testsecret", "othersecret", 1)}
	const rest = `,"data":"{\"message\":\"hello world\"}","name":"my_event"}`
	tests := []struct {
		env  map[string]string
		args []string
		want string // the event, as the server accepted it, or a part of the error
	}{
		{env, []string{"trigger"}, `{"channels":["test_channel"]` + rest},
		{env, []string{"trigger", "a", "b", "c d"}, `{"channels":["a"],"data":"c d","name":"b"}`},
		{env, []string{"trigger", "a", "b", "-1"}, `{"channels":["a"],"data":"-1","name":"b"}`},
		{env, []string{"-debug", "trigger", "-debug", "a"}, `{"channels":["a"]` + rest},
		{nil, []string{"trigger"}, "trigger needs credentials"},
		{wrong, []string{"trigger"}, "the secret is wrong"},
		{env, []string{"trigger", "-x"}, "flag provided but not defined: -x"},
		{env, []string{"trigger", "a", "b", "c", "-debug"}, "put flags before trigger"},
		{env, []string{"trigger", "a", "b", "c", "d"}, "put quotes around"},
	}
	for _, tt := range tests {
		before := len(upstream.Events())
		_, err := runProgram(t, tt.env, tt.args...)
		got := strings.Join(upstream.Events()[before:], "")
		if err != nil {
			got += err.Error()
		}
		if !strings.Contains(got, tt.want) || (err == nil) != (tt.want[0] == '{') || strings.Contains(got, "othersecret") {
			t.Errorf("%v: %s; want %s", tt.args, got, tt.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	const help = "pusher-sample trigger [CHANNEL [EVENT [DATA]]]"
	for _, tt := range []struct {
		env       map[string]string
		args      []string
		out, fail string
	}{
		{nil, []string{"-h"}, help, ""},
		{nil, []string{"help"}, help, ""},
		{map[string]string{"PUSHER_URL": "invalid"}, []string{"trigger", "-h"}, help, ""},
		{map[string]string{"PORT": "1"}, []string{"-addr", taken.Addr().String()}, "", taken.Addr().String() + " is already in use"},
		{map[string]string{"PORT": port}, nil, "", ":" + port + " is already in use"},
		{nil, []string{"-x"}, "", "flag provided but not defined: -x; use -h for help"},
		{nil, []string{"tigger"}, "", `unknown command "tigger"`},
		{map[string]string{"PUSHER_URL": "https://k:hush@api-eu.pusher.com"}, nil, "", "PUSHER_URL"},
		{map[string]string{"PORT": "0"}, []string{"-debug"}, "", "start the app in the folder with its source code"},
	} {
		out, err := runProgram(t, tt.env, tt.args...)
		if !strings.Contains(out, tt.out) || (err == nil) != (tt.fail == "") {
			t.Errorf("%v printed %q, error %v; want %q, %q", tt.args, out, err, tt.out, tt.fail)
		}
		if err != nil && (!strings.Contains(err.Error(), tt.fail) || strings.Contains(err.Error(), "hush")) {
			t.Errorf("%v: error %v; want %q", tt.args, err, tt.fail)
		}
	}
}

// With the embedded server, a channel that needs authorization is an error at start.
func TestCheckChannel(t *testing.T) {
	for name, public := range map[string]bool{channel: true, "my-private-channel": true, "presence-a": false} {
		if err := checkChannel(name); (err == nil) != public {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A failed trigger names the source of its credentials, the host that it called, and the original error. Misspelled
// settings are logged.
func TestFailedTriggerNamesItsSettings(t *testing.T) {
	upstream := pushertest.NewServer(t)
	host := upstream.HTTP.Listener.Addr().String()
	upstream.HTTP.Close()
	t.Chdir(t.TempDir())
	if err := os.WriteFile(".env", []byte("PUSHER_URL="+upstream.PusherURL+"\nPUSHER_CLUSTR=eu"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	err := run(t.Context(), []string{"pusher-sample", "trigger"}, nil, io.Discard, io.MultiWriter(&log, pushertest.Log(t)))
	want := "(API host " + host + ", credentials from PUSHER_URL in .env, error: dial tcp " + host
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want %s", err, want)
	}
	if !strings.Contains(log.String(), "PUSHER_CLUSTR in .env line 2 is not a setting") {
		t.Errorf("the log has no misspelled setting: %s", &log)
	}
}

// With -debug, files are read on each request, and events are logged.
func TestDebug(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.CopyFS(dir, bundled); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	config, err := settings.Load(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	a := newTestApp(t, config, &log)
	a.debug = true
	server := serve(t, a)
	if _, text := pushertest.Request(t, "GET", server.URL); !strings.Contains(text, `data-debug="true"`) {
		t.Error(`the page has no data-debug="true"`)
	}
	for name, path := range map[string]string{"templates/index.html": "/", "static/app.js": "/static/app.js"} {
		if err := os.WriteFile(filepath.FromSlash(name), []byte("edited"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, text := pushertest.Request(t, "GET", server.URL+path); text != "edited" {
			t.Errorf("%s after an edit: %q", path, text)
		}
	}
	pushertest.Request(t, "POST", server.URL+"/pusher")
	if !strings.Contains(log.String(), "channel="+channel+" event="+event) {
		t.Errorf("the log has no event: %s", &log)
	}
}

// BenchmarkPush measures a click, including its call to an API that responds immediately.
func BenchmarkPush(b *testing.B) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") }))
	b.Cleanup(api.Close)
	url := "http://k:s@" + api.Listener.Addr().String() + "/apps/1"
	app := startApp(b, map[string]string{"PUSHER_URL": url, "RATE_LIMIT": "0"})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Post(app.URL+"/pusher", "", nil)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}
