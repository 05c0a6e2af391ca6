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
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/settings"
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
	server := startApp(t, nil)
	resp, page := pushertest.Request(t, "GET", server.URL)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("status %d, type %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self' https://js.pusher.com/8.6.0/;") {
		t.Errorf("the policy allows other scripts: %s", policy)
	}
	for _, want := range []string{
		"<title>Pusher Test</title>",
		`<button class="push"`,
		`data-channel="` + channel + `"`, `data-event="` + event + `"`, `data-key="local"`,
		`https://js.pusher.com/8.6.0/pusher.min.js`, `integrity="sha384-`, `crossorigin="anonymous"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if found := regexp.MustCompile(`<style|style=|<script>|\son[a-z]+=`).FindString(page); found != "" {
		t.Errorf("the page has %s, which its policy forbids", found)
	}
	if resp, _ := pushertest.Request(t, "GET", server.URL, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified {
		t.Errorf("with If-None-Match: status %d, want 304", resp.StatusCode)
	}
}

func TestRoutes(t *testing.T) {
	server := startApp(t, nil)
	hosted := startApp(t, map[string]string{"PUSHER_URL": "https://k:s@api-eu.pusher.com/apps/1"})
	tests := []struct {
		method, path string
		want         int
		allow        string
		text         string
	}{
		{"GET", "/", 200, "", "<title>"},
		{"POST", "/", 405, "GET, HEAD", "Method Not Allowed"},
		{"POST", "/pusher", 200, "", "ok"},
		{"GET", "/pusher", 405, "POST", "Method Not Allowed"},
		{"GET", "/healthz", 200, "", "ok"},
		{"GET", "/static/app.js", 200, "", "new Pusher("},
		{"GET", "/static/", 404, "", "404 page not found"},
		{"GET", "/app.cfg", 404, "", "404 page not found"},
		{"GET", "/app/local", 426, "", "WebSocket"},
		{"POST", "/apps/1/events", 401, "", "sign every request"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			resp, text := pushertest.Request(t, tt.method, server.URL+tt.path)
			if resp.StatusCode != tt.want || resp.Header.Get("Allow") != tt.allow || !strings.Contains(text, tt.text) {
				t.Errorf("status %d, Allow %q, %.80q", resp.StatusCode, resp.Header.Get("Allow"), text)
			}
			if kind := resp.Header.Get("Content-Type"); tt.want >= 400 && kind != "text/plain; charset=utf-8" {
				t.Errorf("the error's Content-Type is %s", kind)
			}
			if resp.Header.Get("Content-Security-Policy") == "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error("security headers are missing")
			}
		})
	}
	for _, path := range []string{"/app/k", "/apps/1/events"} {
		if resp, _ := pushertest.Request(t, "GET", hosted.URL+path); resp.StatusCode != 404 {
			t.Errorf("%s: status %d, want 404 without the embedded server", path, resp.StatusCode)
		}
	}
}

// The page and its Content-Security-Policy name the Channels server from the settings.
func TestPageUsesConfiguredServer(t *testing.T) {
	tests := []struct {
		name    string
		env     map[string]string
		page    string
		connect string // connect-src in the policy
	}{
		{"embedded", nil, `data-key="local" data-cluster="" data-socket=""`, "connect-src 'self';"},
		{"cluster", map[string]string{"PUSHER_URL": "http://k:s@api-eu.pusher.com/apps/1"},
			`data-key="k" data-cluster="eu" data-socket=""`,
			"connect-src 'self' wss://ws-eu.pusher.com https://sockjs-eu.pusher.com;"},
		{"old add-on", map[string]string{"PUSHER_URL": "http://k:s@api.pusherapp.com/apps/1"},
			`data-key="k" data-cluster="mt1" data-socket=""`,
			"connect-src 'self' wss://ws-mt1.pusher.com https://sockjs-mt1.pusher.com;"},
		{"self-hosted", map[string]string{"PUSHER_URL": "https://k:s@example.org:6001/apps/my-app"},
			`data-key="k" data-cluster="" data-socket="wss://example.org:6001"`,
			"connect-src 'self' wss://example.org:6001;"},
		{"Heroku without PUSHER_URL", map[string]string{"DYNO": "web.1"}, "each dyno runs its own embedded server", "connect-src 'self';"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, page := pushertest.Request(t, "GET", startApp(t, tt.env).URL)
			if !strings.Contains(page, tt.page) {
				t.Errorf("want %s in:\n%s", tt.page, page)
			}
			if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, tt.connect) {
				t.Errorf("policy %s; want %s", policy, tt.connect)
			}
			if strings.Contains(page, "secret") {
				t.Error("the page contains the word secret")
			}
		})
	}
}

func TestClickTriggersOneEvent(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.PusherURL})
	resp, text := pushertest.Request(t, "POST", app.URL+"/pusher")
	if resp.StatusCode != 200 || text != "ok" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("got %d %s %q", resp.StatusCode, resp.Header.Get("Content-Type"), text)
	}
	if n := len(upstream.Events()); n != 1 {
		t.Fatalf("%d events were accepted, want 1", n)
	}
	var got struct {
		Name, Data string
		Channels   []string
	}
	if err := json.Unmarshal([]byte(upstream.Events()[0]), &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != event || len(got.Channels) != 1 || got.Channels[0] != channel || got.Data != `{"message":"`+message+`"}` {
		t.Errorf("the event was %+v", got)
	}
}

func TestFailedClick(t *testing.T) {
	upstream := pushertest.NewServer(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.PusherURL})
	wrong := startApp(t, map[string]string{"PUSHER_URL": strings.Replace(upstream.PusherURL, "testsecret", "othersecret", 1)})
	if resp, text := pushertest.Request(t, "POST", wrong.URL+"/pusher"); resp.StatusCode != 502 || !strings.Contains(text, "the secret is wrong") || strings.Contains(text, "othersecret") {
		t.Errorf("wrong secret: %d %s", resp.StatusCode, text)
	}
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(90*time.Minute).UTC().Format(http.TimeFormat))
		http.Error(w, "Timestamp expired: Given timestamp (2013-06-17T15:39:38Z) not within 600s of server time (2013-06-17T17:09:21Z)", http.StatusUnauthorized)
	})
	if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher"); resp.StatusCode != 502 || !strings.Contains(text, "clock is 1h30m behind") {
		t.Errorf("wrong clock: %d %s", resp.StatusCode, text)
	}
	upstream.HTTP.Close()
	if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher"); resp.StatusCode != 502 || !strings.Contains(text, "refused the connection") || !strings.HasSuffix(text, ".\n") {
		t.Errorf("no server: %d %s", resp.StatusCode, text)
	}
}

// The host of a self-hosted server is logged, but not shown to visitors.
func TestFailedClickShowsNoHost(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	host := strings.TrimPrefix(closed.URL, "http://")
	set, err := settings.Load([]string{"PUSHER_URL=http://k:s@" + host + "/apps/1"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if _, text := pushertest.Request(t, "POST", serve(t, newTestApp(t, set, &log)).URL+"/pusher"); !strings.HasPrefix(text, "The Channels server refused the connection") || strings.Contains(text, host) {
		t.Errorf("the page shows %q", text)
	}
	if !strings.Contains(log.String(), "server="+host) || !strings.Contains(log.String(), `error="dial tcp `+host) {
		t.Errorf("the log has no host or no original error: %s", &log)
	}
}

func TestRateLimitAndCrossSite(t *testing.T) {
	app := startApp(t, map[string]string{"RATE_LIMIT": "0.001"}) // one click per 1,000 s
	if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher", "Sec-Fetch-Site", "cross-site"); resp.StatusCode != 403 || !strings.Contains(text, "Another site") {
		t.Errorf("cross-site: %d %s", resp.StatusCode, text)
	}
	if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher", "Sec-Fetch-Site", "same-origin", "Origin", app.URL); resp.StatusCode != 200 {
		t.Errorf("first click: %d %s", resp.StatusCode, text)
	}
	if resp, text := pushertest.Request(t, "POST", app.URL+"/pusher"); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(text, "Too many clicks") {
		t.Errorf("second click: %d %s", resp.StatusCode, text)
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
	second := startApp(t, map[string]string{"PUSHER_URL": strings.Replace(first.URL, "//", "//local:"+config.Server.Secret+"@", 1) + "/apps/1"})
	client := pushertest.Subscribe(t, first.URL, config.Server.Key, channel)
	pushertest.Request(t, "POST", second.URL+"/pusher")
	if got := client.Next(t); !strings.Contains(got, event) {
		t.Errorf("received %s, want %s", got, event)
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
	tests := []struct {
		args []string
		want string // the event, as the server accepted it
	}{
		{[]string{"trigger"}, `{"channels":["test_channel"],"data":"{\"message\":\"hello world\"}","name":"my_event"}`},
		{[]string{"trigger", "a"}, `{"channels":["a"],"data":"{\"message\":\"hello world\"}","name":"my_event"}`},
		{[]string{"trigger", "a", "b", "c d"}, `{"channels":["a"],"data":"c d","name":"b"}`},
		{[]string{"trigger", "a", "b", "-1"}, `{"channels":["a"],"data":"-1","name":"b"}`},
		{[]string{"-debug", "trigger", "-debug", "a"}, `{"channels":["a"],"data":"{\"message\":\"hello world\"}","name":"my_event"}`},
	}
	for i, tt := range tests {
		out, err := runProgram(t, env, tt.args...)
		if err != nil || !strings.Contains(out, " accepted the event ") {
			t.Fatalf("%v: %v %s", tt.args, err, out)
		}
		if upstream.Events()[i] != tt.want {
			t.Errorf("%v triggered %s, want %s", tt.args, upstream.Events()[i], tt.want)
		}
	}
	failures := []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"no credentials", nil, []string{"trigger"}, "trigger needs credentials"},
		{"bad channel", env, []string{"trigger", "a b"}, "channel name is not valid"},
		{"too large", env, []string{"trigger", "a", "b", strings.Repeat("x", 10<<10+1)}, "too large"},
		{"unknown flag", env, []string{"trigger", "-x"}, "flag provided but not defined: -x"},
		{"flag as event", env, []string{"trigger", "a", "--x"}, "put flags before trigger"},
		{"flag at the end", env, []string{"trigger", "a", "b", "c", "-debug"}, "put flags before trigger"},
		{"too many arguments", env, []string{"trigger", "a", "b", "c", "d"}, "put quotes around"},
		{"wrong secret", map[string]string{"PUSHER_URL": strings.Replace(upstream.PusherURL, "testsecret", "othersecret", 1)}, []string{"trigger"}, "the secret is wrong"},
	}
	for _, tt := range failures {
		t.Run(tt.name, func(t *testing.T) {
			out, err := runProgram(t, tt.env, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "othersecret") {
				t.Errorf("error %v, want %q; printed %q", err, tt.want, out)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	tests := []struct {
		name      string
		env       map[string]string
		args      []string
		out, fail string
	}{
		{"help", nil, []string{"-h"}, "pusher-sample trigger [CHANNEL [EVENT [DATA]]]", ""},
		{"help without a dash", nil, []string{"help"}, "pusher-sample trigger [CHANNEL [EVENT [DATA]]]", ""},
		{"help for trigger", map[string]string{"PUSHER_URL": "invalid"}, []string{"trigger", "-h"}, "pusher-sample trigger [CHANNEL [EVENT [DATA]]]", ""},
		{"long help for trigger", nil, []string{"trigger", "--help"}, "TRUST_PROXY", ""},
		{"port without a host", nil, []string{"-addr", "5001"}, "", "can't listen on 5001 (listen tcp: address 5001: missing port in address)"},
		{"port too high", nil, []string{"-addr", ":99999"}, "", "can't listen on :99999 (listen tcp: address 99999: invalid port)"},
		{"address in use", nil, []string{"-addr", taken.Addr().String()}, "", "is already in use by another program: stop it, or choose another address with -addr 127.0.0.1:"},
		{"-addr overrides PORT", map[string]string{"PORT": "1"}, []string{"-addr", taken.Addr().String()}, "", taken.Addr().String() + " is already in use"},
		{"unknown flag", nil, []string{"-x"}, "", "flag provided but not defined: -x; use -h for help"},
		{"unknown command", nil, []string{"tigger"}, "", `unknown command "tigger"`},
		{"bad port", map[string]string{"PORT": "http"}, nil, "", "PORT"},
		{"bad URL", map[string]string{"PUSHER_URL": "https://k:hush@api-eu.pusher.com"}, nil, "", "PUSHER_URL"},
		{"port in use", map[string]string{"PORT": port}, nil, "", "is already in use by another program: stop it, or choose another address with -addr :"},
		{"debug in another folder", map[string]string{"PORT": "0"}, []string{"-debug"}, "", "start the app in the folder with its source code"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := runProgram(t, tt.env, tt.args...)
			if !strings.Contains(out, tt.out) || (err == nil) != (tt.fail == "") || err != nil && !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("printed %q, error %v; want %q, %q", out, err, tt.out, tt.fail)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hush")) {
				t.Errorf("the error has several lines or contains a secret: %v", err)
			}
		})
	}
}

// With the embedded server, a channel that needs authorization is an error at start.
func TestCheckChannel(t *testing.T) {
	for _, name := range []string{"private-channel1", "presence-channel1", "private-encrypted-channel1"} {
		if err := checkChannel(name); err == nil || !strings.Contains(err.Error(), "public channels only, so pages can't subscribe to "+name+": set PUSHER_URL") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{channel, "my-private-channel"} {
		if err := checkChannel(name); err != nil {
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
	tests := []struct {
		env        map[string]string
		file, text string
		log, want  string
	}{
		{map[string]string{"PUSHER_URL": upstream.PusherURL}, "", "", "", "credentials from PUSHER_URL, "},
		{nil, ".env", "PUSHER_URL=" + upstream.PusherURL + "\nPUSHER_CLUSTR=eu", "PUSHER_CLUSTR in .env line 2 is not a setting", "credentials from PUSHER_URL in .env, "},
		{nil, "app.cfg", "ID=1\nKEY=k\nSECRET=othersecret\nHOST=" + host + "\nCLUSTR=eu", "CLUSTR in app.cfg line 5 is not a setting", "credentials from app.cfg, "},
		{map[string]string{"PUSHER_URL": upstream.PusherURL}, "app.cfg", "", "app.cfg is ignored, because PUSHER_URL is set", "credentials from PUSHER_URL, "},
	}
	for _, tt := range tests {
		t.Chdir(t.TempDir())
		if tt.file != "" {
			if err := os.WriteFile(tt.file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		err := run(t.Context(), []string{"pusher-sample", "trigger"}, environ(tt.env), io.Discard, io.MultiWriter(&log, pushertest.Log(t)))
		if err == nil || !strings.HasSuffix(err.Error(), "(API host "+host+", "+tt.want+"error: dial tcp "+host+": connect: connection refused)") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %s", tt.file, err, tt.want)
		}
		if !strings.Contains(log.String(), tt.log) || tt.log == "" && log.Len() > 0 {
			t.Errorf("%s: logged %s, want %s", tt.file, log.String(), tt.log)
		}
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
	request := func(method, path string) (int, string) {
		resp, text := pushertest.Request(t, method, server.URL+path)
		return resp.StatusCode, text
	}
	edit := func(name, text string) {
		if err := os.WriteFile(filepath.FromSlash(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, text := request("GET", "/"); !strings.Contains(text, `data-debug="true"`) {
		t.Error(`the page has no data-debug="true"`)
	}
	edit("templates/index.html", "edited {{.Key}}")
	edit("static/app.js", "edited too")
	if _, text := request("GET", "/"); text != "edited local" {
		t.Errorf("after an edit: %q", text)
	}
	if _, text := request("GET", "/static/app.js"); text != "edited too" {
		t.Errorf("after an edit: %q", text)
	}
	edit("templates/index.html", "one\ntwo {{.Nothing}}")
	if status, text := request("GET", "/"); status != 500 || !strings.Contains(text, "index.html:2") {
		t.Errorf("with an error in the template: %d %q", status, text)
	}
	if status, _ := request("POST", "/pusher"); status != 200 || !strings.Contains(log.String(), "channel="+channel+" event="+event) {
		t.Errorf("status %d; the log has no event: %s", status, log.String())
	}
}

// benchmark measures requests to url.
func benchmark(b *testing.B, method, url string) {
	b.ReportAllocs()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, _ := http.NewRequest(method, url, nil)
			resp, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				b.Error(resp.Status)
				return
			}
		}
	})
}

// BenchmarkIndex measures a GET of the page.
func BenchmarkIndex(b *testing.B) { benchmark(b, "GET", startApp(b, nil).URL) }

// BenchmarkPush measures a click, including its call to an API that responds immediately.
func BenchmarkPush(b *testing.B) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") }))
	b.Cleanup(api.Close)
	app := startApp(b, map[string]string{"PUSHER_URL": "http://k:s@" + api.Listener.Addr().String() + "/apps/1", "RATE_LIMIT": "0"})
	benchmark(b, "POST", app.URL+"/pusher")
}
