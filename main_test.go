// In-process tests of the app: the handlers' responses and the program's commands. Tests that run the built program are
// in internal/e2e.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/settings"

	"github.com/coder/websocket"
)

// startApp serves the app in this process until the end of the test, with the environment env, and returns its URL.
func startApp(t testing.TB, env ...string) string {
	t.Helper()
	_, url := startAppWithLog(t, io.Discard, false, env...)
	return url
}

// startAppWithLog is like startApp, but logs at all levels to log, and also returns the app.
func startAppWithLog(t testing.TB, log io.Writer, debug bool, env ...string) (*app, string) {
	t.Helper()
	config, _, err := settings.Load(env, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log = io.MultiWriter(log, pushertest.Log(t))
	a := newApp(config, debug, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if a.channels != nil {
		t.Cleanup(a.channels.Close)
	}
	server := httptest.NewUnstartedServer(nil)
	if server.Config.Handler, err = a.handler(server.Listener.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	return a, server.URL
}

func TestPage(t *testing.T) {
	_, page := pushertest.Request(t, "GET", startApp(t))
	for _, want := range []string{
		`<button class="push"`, `data-channel="` + channel + `"`, `data-event="` + event + `"`,
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
	server, hosted := startApp(t), startApp(t, "PUSHER_URL=https://k:s@api-eu.pusher.com/apps/1")
	for _, tt := range []struct {
		method, url string
		want        int
		text        string
	}{
		{"GET", server + "/", 200, "<title>Pusher Test</title>"},
		{"POST", server + "/pusher", 200, "ok"},
		{"GET", server + "/pusher", 405, "Method Not Allowed"},
		{"GET", server + "/healthz", 200, "ok"},
		{"GET", server + "/static/app.js", 200, "new Pusher("},
		{"GET", server + "/app/local", 426, "WebSocket"},
		{"POST", server + "/apps/1/events", 400, "sign every request"},
		{"GET", hosted + "/app/k", 404, "404 page not found"},
	} {
		resp, text := pushertest.Request(t, tt.method, tt.url)
		if resp.StatusCode != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s %s: status %d, %.80q; want %d, %q", tt.method, tt.url, resp.StatusCode, text, tt.want, tt.text)
		}
	}
}

// The page and its Content-Security-Policy name the Channels server from the settings.
func TestPageUsesConfiguredServer(t *testing.T) {
	for _, tt := range []struct {
		env     string
		page    string
		connect string // in the policy
	}{
		{"", `data-key="local" data-cluster="" data-socket=""`, " 'self';"},
		{"PUSHER_URL=http://k:secret@api-eu.pusher.com/apps/1", `data-key="k" data-cluster="eu" data-socket="wss://ws-eu.pusher.com"`, " wss://ws-eu."},
		{"PUSHER_URL=https://k:secret@own.example/apps/1", `data-socket="wss://own.example"`, " wss://own.example;"},
		{"DYNO=web.1", "each dyno runs its own embedded server", " 'self';"},
	} {
		resp, page := pushertest.Request(t, "GET", startApp(t, tt.env))
		if !strings.Contains(page, tt.page) || strings.Contains(page, "secret") {
			t.Errorf("%s: want %s, and no secret, in:\n%s", tt.env, tt.page, page)
		}
		if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, tt.connect) {
			t.Errorf("%s: policy %s; want %s", tt.env, policy, tt.connect)
		}
	}
}

func TestClickTriggersOneEvent(t *testing.T) {
	upstream := pushertest.NewServer(t)
	resp, text := pushertest.Request(t, "POST", startApp(t, "PUSHER_URL="+upstream.PusherURL)+"/pusher")
	if resp.StatusCode != 200 || text != "ok" {
		t.Errorf("got %d %q", resp.StatusCode, text)
	}
	data, _ := json.Marshal(map[string]string{"message": message})
	event, _ := json.Marshal(map[string]any{"name": event, "channels": []string{channel}, "data": string(data)})
	if got := upstream.Events(); len(got) != 1 || got[0] != string(event) {
		t.Errorf("the server accepted %s, want %s", got, event)
	}
}

// A failed click is explained to visitors without the host of a self-hosted server, which is in the log.
func TestFailedClick(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	host := strings.TrimPrefix(closed.URL, "http://")
	var log bytes.Buffer
	_, app := startAppWithLog(t, &log, false, "PUSHER_URL=http://k:testsecret@"+host+"/apps/1")
	resp, text := pushertest.Request(t, "POST", app+"/pusher")
	if resp.StatusCode != 502 || !strings.HasPrefix(text, "The Channels server refused") || strings.Contains(text, host) {
		t.Errorf("got %d %q", resp.StatusCode, text)
	}
	if !strings.Contains(log.String(), "host="+host) || !strings.Contains(log.String(), `error="dial tcp `+host) {
		t.Errorf("the log has no host or no original error: %s", &log)
	}
}

func TestRateLimitAndCrossSite(t *testing.T) {
	app := startApp(t, "RATE_LIMIT=0.001") // one click per 1,000 s
	for i, tt := range []struct {
		header []string
		want   int
	}{
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403}, // doesn't count
		{[]string{"Sec-Fetch-Site", "same-origin", "Origin", app}, 200},
		{nil, 429},
	} {
		if resp, text := pushertest.Request(t, "POST", app+"/pusher", tt.header...); resp.StatusCode != tt.want {
			t.Errorf("click %d: %d %s; want %d", i, resp.StatusCode, text, tt.want)
		}
	}
}

// The embedded server accepts WebSockets from the same pages as the app accepts clicks from, also behind proxies.
func TestWebSocketOrigins(t *testing.T) {
	for _, tt := range []struct{ proxies, host, forwardedHost, origin, want string }{
		{"1", "app.example:443", "", "https://app.example", "connection_established"},
		{"1", "127.0.0.1:5000", "name.tunnel.example", "https://name.tunnel.example", "connection_established"},
		{"0", "127.0.0.1:5000", "evil.example", "https://evil.example", "4009"},
	} {
		options := &websocket.DialOptions{Host: tt.host, HTTPHeader: http.Header{"Origin": {tt.origin}}}
		options.HTTPHeader.Set("X-Forwarded-Host", tt.forwardedHost)
		app := startApp(t, "TRUST_PROXY="+tt.proxies)
		conn, _, err := websocket.Dial(t.Context(), app+"/app/local?protocol=7", options)
		if err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("%+v: received %s, %v", tt, got, err)
		}
		conn.CloseNow()
	}
}

// Each command prints its result, or fails with an error that has no secret. Warnings about settings are logged.
func TestCommands(t *testing.T) {
	upstream := pushertest.NewServer(t)
	env := "PUSHER_URL=" + upstream.PusherURL
	wrong := strings.Replace(env, "testsecret", "othersecret", 1)
	addr := upstream.HTTP.Listener.Addr().String() // in use
	closed := httptest.NewServer(nil)
	closed.Close()
	host := strings.TrimPrefix(closed.URL, "http://")
	t.Chdir(t.TempDir())
	if err := os.WriteFile(".env", []byte("PUSHER_CLUSTR=eu"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	stderr := io.MultiWriter(&log, pushertest.Log(t))
	const help = "pusher-sample trigger [CHANNEL [EVENT [DATA]]]"
	const rest = `],"data":"{\"message\":\"hello world\"}","name":"my_event"}`
	for _, tt := range []struct{ env, args, want, fail string }{
		{"", "-h", help, ""},
		{"PUSHER_URL=invalid", "trigger -h", help, ""},
		{"", "-x", "", "flag provided but not defined: -x; use -h for help"},
		{"", "tigger", "", `unknown command "tigger"; use -h for help`},
		{"PUSHER_URL=https://k:othersecret@api-eu.pusher.com", "", "", "PUSHER_URL"},
		{"PORT=1", "-addr " + addr, "", addr + " is already in use"},
		{"PORT=" + addr[strings.LastIndex(addr, ":")+1:], "", "", " is already in use"},
		{env, "trigger", `{"channels":["test_channel"` + rest, ""},
		{env, "-debug trigger -debug a", `{"channels":["a"` + rest, ""},
		{"", "trigger", "", "trigger needs credentials"},
		{wrong, "trigger", "", "the secret is wrong"},
		{"PUSHER_URL=http://k:othersecret@" + host + "/apps/1", "trigger", "",
			"(API host " + host + ", credentials from PUSHER_URL, error: dial tcp " + host},
		{env, "trigger a -debug", "", "put flags before trigger"},
		{env, "trigger a b c d", "", "quotes around"},
	} {
		before := len(upstream.Events())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var out bytes.Buffer
		err := run(ctx, strings.Fields("pusher-sample "+tt.args), []string{tt.env}, &out, stderr)
		cancel()
		got, failure := out.String()+strings.Join(upstream.Events()[before:], ""), fmt.Sprint(err)
		if !strings.Contains(got, tt.want) || (tt.fail == "") != (err == nil) || !strings.Contains(failure, tt.fail) ||
			strings.Contains(failure, "othersecret") {
			t.Errorf("%q printed or sent %q, error %v; want %q, %q", tt.args, got, err, tt.want, tt.fail)
		}
	}
	if !strings.Contains(log.String(), ".env line 1 has an unknown name") {
		t.Errorf("the log has no misspelled setting: %s", &log)
	}
}

// With the embedded server, a channel that needs authorization is an error at start.
func TestCheckChannel(t *testing.T) {
	for name, public := range map[string]bool{channel: true, "my-private-channel": true, "presence-a": false} {
		if err := checkChannel(settings.Server{}, name); (err == nil) != public {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// With -debug, files are read from disk on each request, and events are logged.
func TestDebug(t *testing.T) {
	t.Chdir(t.TempDir())
	a := newApp(settings.Settings{}, true, slog.New(slog.DiscardHandler))
	if _, err := a.handler(&net.TCPAddr{}); err == nil || !strings.Contains(err.Error(), "the folder with the source code") {
		t.Errorf("in another folder: %v", err)
	}
	if err := os.CopyFS(".", bundled); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	_, app := startAppWithLog(t, &log, true)
	if _, text := pushertest.Request(t, "GET", app); !strings.Contains(text, `data-debug="true"`) {
		t.Error(`the page has no data-debug="true"`)
	}
	for name, path := range map[string]string{"templates/index.html": "/", "static/app.js": "/static/app.js"} {
		os.WriteFile(filepath.FromSlash(name), []byte("edited"), 0o644)
		if _, text := pushertest.Request(t, "GET", app+path); text != "edited" {
			t.Errorf("after an edit of %s: %q", name, text)
		}
	}
	pushertest.Request(t, "POST", app+"/pusher")
	if !strings.Contains(log.String(), "channel="+channel+" event="+event) {
		t.Errorf("the log has no event: %s", &log)
	}
}

// BenchmarkPush measures a click, including its call to an API that responds immediately.
func BenchmarkPush(b *testing.B) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") }))
	b.Cleanup(api.Close)
	app := startApp(b, "PUSHER_URL=http://k:s@"+api.Listener.Addr().String()+"/apps/1", "RATE_LIMIT=0")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Post(app+"/pusher", "", nil)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}
