package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/channels"
	"pusher-sample/internal/settings"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	cdnetwork "github.com/chromedp/cdproto/network"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/lxzan/gws"
)

const (
	patience = 20 * time.Second // for what should come; never waited out when it does
	kaomoji  = "((((((((((っ･ω･)っ ﾌﾞ-ﾝ"
	crash    = "((((((((((っ･ωΣ[柱]ｶﾞｺｯ!"
)

var scratch string // a folder for the whole run

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "pusher-sample-test"); err != nil {
		panic(err)
	}
	code := m.Run()
	if closeBrowser != nil {
		closeBrowser()
	}
	os.RemoveAll(scratch)
	os.Exit(code)
}

// lacking skips a test on a user's machine, and fails it where all must be there.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// startApp serves the app in this process, with the environment env.
func startApp(t testing.TB, env map[string]string) *httptest.Server {
	t.Helper()
	set, err := settings.Load(func(name string) string { return env[name] }, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := newTestApp(t, set, watchedLog{t})
	a.onHeroku = env["DYNO"] != ""
	server := httptest.NewServer(handlerOf(t, a))
	t.Cleanup(server.Close)
	return server
}

// newTestApp is the app, logging all to log.
func newTestApp(t testing.TB, set settings.Settings, log io.Writer) *app {
	a := newApp(set, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(a.close)
	return a
}

func handlerOf(t testing.TB, a *app) http.Handler {
	t.Helper()
	handler, err := a.handler()
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

// watchedLog looks for what no log line may hold.
type watchedLog struct{ t testing.TB }

func (w watchedLog) Write(line []byte) (int, error) {
	for _, secret := range []string{"testsecret", "othersecret", "auth_signature=", "body_md5="} {
		if bytes.Contains(line, []byte(secret)) {
			w.t.Errorf("a secret or a signed URL is in the log: %s", line)
		}
	}
	return len(line), nil
}

func do(t testing.TB, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestPage(t *testing.T) {
	server := startApp(t, nil)
	resp, page := do(t, "GET", server.URL)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("status %d, type %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	for _, want := range []string{
		"<title>Pusher Test</title>",
		`<button id="push"`, ">" + kaomoji + "</button>",
		`data-channel="channel1"`, `data-event="event1"`, `data-key="local"`,
		`https://js.pusher.com/8.6.0/pusher.min.js`, `integrity="sha384-`, `crossorigin="anonymous"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if found := regexp.MustCompile(`<style|style=|<script>|\son[a-z]+=`).FindString(page); found != "" {
		t.Errorf("the page has %s, which its policy forbids", found)
	}
	if resp, _ := do(t, "GET", server.URL, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != http.StatusNotModified {
		t.Errorf("asked for again: status %d, want 304", resp.StatusCode)
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
		{"GET", "/", 200, "", kaomoji},
		{"HEAD", "/", 200, "", ""},
		{"POST", "/", 405, "GET, HEAD", "GET only"},
		{"POST", "/pusher", 200, "", "ok"},
		{"GET", "/pusher", 405, "POST", "POST only"},
		{"GET", "/healthz", 200, "", "ok"},
		{"DELETE", "/healthz", 405, "GET, HEAD", "GET only"},
		{"GET", "/static/app.js", 200, "", "/pusher"},
		{"GET", "/static/channels.js", 200, "", "class Pusher"},
		{"GET", "/static/style.css", 200, "", "prefers-reduced-motion"},
		{"GET", "/static/favicon.svg", 200, "", "<svg"},
		{"GET", "/static/", 404, "", "Nothing is at this address"},
		{"GET", "/static/none.js", 404, "", "Nothing is at this address"},
		{"GET", "/static/../main.go", 404, "", "Nothing is at this address"},
		{"GET", "/static/%2e%2e/main.go", 404, "", "Nothing is at this address"},
		{"GET", "/app.cfg", 404, "", "Nothing is at this address"},
		{"GET", "/templates/index.html", 404, "", "Nothing is at this address"},
		{"GET", "/app/local", 426, "", "WebSocket"},
		{"POST", "/apps/1/events", 401, "", "must be signed"},
		{"GET", "/apps/1/events", 405, "POST", "POST only"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			resp, text := do(t, tt.method, server.URL+tt.path)
			if resp.StatusCode != tt.want || resp.Header.Get("Allow") != tt.allow || !strings.Contains(text, tt.text) {
				t.Errorf("status %d, Allow %q, %.80q", resp.StatusCode, resp.Header.Get("Allow"), text)
			}
			if kind := resp.Header.Get("Content-Type"); tt.want >= 400 && kind != "text/plain; charset=utf-8" {
				t.Errorf("the error is %s", kind)
			}
			if resp.Header.Get("Content-Security-Policy") == "" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error("security headers are missing")
			}
		})
	}
	for _, path := range []string{"/app/k", "/apps/1/events"} {
		if resp, _ := do(t, "GET", hosted.URL+path); resp.StatusCode != 404 {
			t.Errorf("%s: status %d though the embedded server is not in use", path, resp.StatusCode)
		}
	}
}

// Requests as no browser sends them: what is answered, and that nothing is given away.
func TestOddRequests(t *testing.T) {
	server := startApp(t, nil)
	tests := []struct {
		request string // its first line, or more
		status  int
		header  string // that the answer must have
	}{
		{"GET / HTTP/1.0", 200, ""},
		{"POST /pusher HTTP/1.0", 200, ""},
		{"GET /static/app.js HTTP/1.0\r\nConnection: keep-alive", 200, "Connection: keep-alive"},
		{"GET / HTTP/1.1", 400, ""}, // without Host
		{"GET / HTTP/3.0", 505, ""},
		{"GET /", 400, ""},
		{"OPTIONS / HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"OPTIONS /pusher HTTP/1.0", 405, "Allow: POST"},
		{"TRACE / HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"PROPFIND /static/app.js HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"get / HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"G@T / HTTP/1.0", 400, ""},
		{"CONNECT example.org:443 HTTP/1.0", 405, "Allow: GET, HEAD"},
		{"GET http://elsewhere.example/app.cfg HTTP/1.0", 404, ""},
		{"GET /static HTTP/1.0", 307, "Location: /static/"},
		{"GET /static/ HTTP/1.0", 404, ""},
		{"GET /static/. HTTP/1.0", 307, "Location: /static/"},
		{"GET /static/../../app.cfg HTTP/1.0", 307, "Location: /app.cfg"},
		{"GET /static/..%2f..%2fmain.go HTTP/1.0", 404, ""},
		{"GET /static/..%5c..%5cmain.go HTTP/1.0", 404, ""},
		{"GET /static/%00app.js HTTP/1.0", 404, ""},
		{"GET /static/app.js/ HTTP/1.0", 404, ""},
		{"GET /static/APP.JS HTTP/1.0", 404, ""},
		{"GET //elsewhere.example/ HTTP/1.0", 307, "Location: /elsewhere.example/"},
		{"GET /%2f%2felsewhere.example HTTP/1.0", 404, ""},
		{"GET /\\elsewhere.example HTTP/1.0", 404, ""},
		{"GET /.env HTTP/1.0", 404, ""},
		{"GET /.git/config HTTP/1.0", 404, ""},
		{"GET /debug/pprof/ HTTP/1.0", 404, ""},
		{"GET /apps/1/channels HTTP/1.0", 404, ""},
		{"GET /app HTTP/1.0", 307, "Location: /app/"},
		{"GET /app/ HTTP/1.0", 404, ""},
		{"GET /app/local/more HTTP/1.0", 404, ""},
		{"POST /pusher HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nConnection: close", 501, ""},
		{"POST /pusher HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\nConnection: close", 400, ""},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.request, "\r\n", "; "), func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, tt.request+"\r\n\r\n")
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			name, value, _ := strings.Cut(tt.header, ": ")
			if resp.StatusCode != tt.status || name != "" && resp.Header.Get(name) != value {
				t.Errorf("status %d, %v; want %d, %s", resp.StatusCode, resp.Header, tt.status, tt.header)
			}
			if tt.status >= 400 && (len(body) > 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain")) {
				t.Errorf("the error is %s: %q", resp.Header.Get("Content-Type"), body)
			}
		})
	}
}

// What the page is told, by where the events go.
func TestPageKnowsItsServer(t *testing.T) {
	tests := []struct {
		name    string
		env     map[string]string
		page    string
		connect string // what the policy lets it connect to
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
		{"island", map[string]string{"DYNO": "web.1"}, "this dyno has a Channels server of its own", "connect-src 'self';"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, page := do(t, "GET", startApp(t, tt.env).URL)
			if !strings.Contains(page, tt.page) {
				t.Errorf("want %s in:\n%s", tt.page, page)
			}
			if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, tt.connect) {
				t.Errorf("policy %s; want %s", policy, tt.connect)
			}
			if strings.Contains(page, "secret") {
				t.Error("the page speaks of a secret")
			}
		})
	}
}

// fakePusher stands for Pusher: a Channels server that checks signatures, keeps
// what it took, and answers wrongly where it is told to.
type fakePusher struct {
	*httptest.Server
	URL string // for PUSHER_URL

	server *channels.Server

	mu    sync.Mutex
	taken []string // request bodies
	fail  http.HandlerFunc
}

func startPusher(t testing.TB) *fakePusher {
	t.Helper()
	server := channels.New(channels.App{ID: "1234", Key: "testkey", Secret: "testsecret"}, channels.Options{}, slog.New(slog.DiscardHandler))
	f := &fakePusher{server: server}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		fail := f.fail
		f.mu.Unlock()
		if fail != nil {
			fail(w, r)
			return
		}
		f.serve(w, r)
	}))
	f.URL = "http://testkey:testsecret@" + strings.TrimPrefix(f.Server.URL, "http://") + "/apps/1234"
	t.Cleanup(func() { f.Server.Close(); server.Close() })
	return f
}

// serve answers as Pusher does.
func (f *fakePusher) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == "GET" {
		r.Header.Del("Origin") // Pusher takes sockets from everywhere
		f.server.ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	f.server.ServeHTTP(answer, r)
	if answer.Code == 200 {
		f.mu.Lock()
		f.taken = append(f.taken, string(body))
		f.mu.Unlock()
	}
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

// count is how many events were taken.
func (f *fakePusher) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.taken)
}

// answer has calls answered by fail until it is nil again.
func (f *fakePusher) answer(fail http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func TestClickTriggersOneEvent(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL})
	resp, text := do(t, "POST", app.URL+"/pusher")
	if resp.StatusCode != 200 || text != "ok" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("got %d %s %q", resp.StatusCode, resp.Header.Get("Content-Type"), text)
	}
	if n := upstream.count(); n != 1 {
		t.Fatalf("%d events were taken, want 1", n)
	}
	var got struct {
		Name, Data string
		Channels   []string
	}
	if err := json.Unmarshal([]byte(upstream.taken[0]), &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "event1" || len(got.Channels) != 1 || got.Channels[0] != "channel1" || got.Data != `{"message":"`+crash+`"}` {
		t.Errorf("the event was %+v", got)
	}
}

func TestFailedClick(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL})
	wrong := startApp(t, map[string]string{"PUSHER_URL": strings.Replace(upstream.URL, "testsecret", "othersecret", 1)})
	if resp, text := do(t, "POST", wrong.URL+"/pusher"); resp.StatusCode != 502 || !strings.Contains(text, "the secret is wrong") || strings.Contains(text, "othersecret") {
		t.Errorf("wrong secret: %d %s", resp.StatusCode, text)
	}
	upstream.answer(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Timestamp expired: Given timestamp (2013-06-17T15:39:38Z) not within 600s of server time (2013-06-17T17:09:21Z)", http.StatusUnauthorized)
	})
	if resp, text := do(t, "POST", app.URL+"/pusher"); resp.StatusCode != 502 || !strings.Contains(text, "clock is 1 hour and 29 minutes behind") {
		t.Errorf("wrong clock: %d %s", resp.StatusCode, text)
	}
	upstream.Server.Close()
	if resp, text := do(t, "POST", app.URL+"/pusher"); resp.StatusCode != 502 || !strings.Contains(text, "Nothing answers") || !strings.HasSuffix(text, ".\n") {
		t.Errorf("no server: %d %s", resp.StatusCode, text)
	}
}

func TestRateLimitAndCrossSite(t *testing.T) {
	app := startApp(t, map[string]string{"RATE_LIMIT": "0.001"}) // one click, the next in a quarter of an hour
	if resp, text := do(t, "POST", app.URL+"/pusher", "Sec-Fetch-Site", "cross-site"); resp.StatusCode != 403 || !strings.Contains(text, "Another site") {
		t.Errorf("cross-site: %d %s", resp.StatusCode, text)
	}
	if resp, text := do(t, "POST", app.URL+"/pusher", "Sec-Fetch-Site", "same-origin", "Origin", app.URL); resp.StatusCode != 200 {
		t.Errorf("first click: %d %s", resp.StatusCode, text)
	}
	if resp, text := do(t, "POST", app.URL+"/pusher"); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(text, "Too many clicks") {
		t.Errorf("second click: %d %s", resp.StatusCode, text)
	}
}

// tally counts the answers to clicks.
type tally struct {
	mu      sync.Mutex
	answers map[string]int
}

// oneShot makes a connection for each request, so that none is left over.
var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// click posts a click, and counts its answer, or that none came.
func (c *tally) click(url string) {
	answer := "none"
	if resp, err := oneShot.Post(url+"/pusher", "", nil); err == nil {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		answer = fmt.Sprint(resp.StatusCode, " ", string(text))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == nil {
		c.answers = map[string]int{}
	}
	c.answers[answer]++
}

// count is how many answers had a text in them.
func (c *tally) count(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for answer, times := range c.answers {
		if strings.Contains(answer, text) {
			n += times
		}
	}
	return n
}

// 300 clicks at once: each is answered, and each ok is one event.
func TestManyClicksAtOnce(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL, "RATE_LIMIT": "0"})
	var clicks sync.WaitGroup
	var got tally
	for range 300 {
		clicks.Go(func() { got.click(app.URL) })
	}
	clicks.Wait()
	ok, busy := got.count("200 ok"), got.count("503 Too many clicks are on their way at once. Wait a second, then click again.")
	if ok == 0 || ok+busy != 300 || upstream.count() != ok {
		t.Errorf("%d events for these answers: %v", upstream.count(), got.answers)
	}
}

// The upstream restarts under clicks: each is answered, each ok is one event, and
// what became of the others is said as far as it is known.
func TestUpstreamRestartsUnderClicks(t *testing.T) {
	for _, tt := range []struct {
		name string
		stop func(*http.Server) error
	}{
		{"orderly", func(s *http.Server) error { return s.Shutdown(t.Context()) }},
		{"cut", (*http.Server).Close},
	} {
		t.Run(tt.name, func(t *testing.T) {
			upstream := startPusher(t)
			app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL, "RATE_LIMIT": "0"})
			var got tally
			var clicks sync.WaitGroup
			restarted := make(chan bool)
			for range 50 {
				clicks.Go(func() {
					for again := 3; again > 0; {
						got.click(app.URL)
						select {
						case <-restarted:
							again--
						default:
						}
					}
				})
			}
			waitFor(t, "clicks", func() bool { return upstream.count() > 100 })
			tt.stop(upstream.Config)
			waitFor(t, "a click to fail", func() bool { return got.count("Nothing answers") > 0 })
			listener, err := net.Listen("tcp", upstream.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			second := &http.Server{Handler: upstream.Config.Handler}
			defer second.Close()
			go second.Serve(listener)
			before := got.count("200 ok")
			close(restarted)
			clicks.Wait()

			ok, unknown := got.count("200 ok"), got.count("not known whether the event was sent")
			failed := got.count("502 ") + got.count("503 ") + got.count("504 ")
			if got.count("") != ok+failed {
				t.Errorf("some clicks had no answer: %v", got.answers)
			}
			if taken := upstream.count(); taken < ok || taken > ok+unknown || tt.name == "orderly" && taken != ok {
				t.Errorf("%d events for these answers: %v", taken, got.answers)
			}
			if ok == before {
				t.Error("no click came through after the restart")
			}
		})
	}
}

// A click whose browser is gone by its turn does not start.
func TestClickThatNobodyWaitsFor(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	app.Config.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, "POST", "/pusher", nil))
	if n := upstream.count(); n != 0 {
		t.Errorf("%d events were triggered", n)
	}
}

// A panic is answered and logged with its stack, and the app lives on.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	a := newTestApp(t, settings.Settings{}, &log)
	server := httptest.NewServer(handlerOf(t, a))
	defer server.Close()
	working := a.pusher
	a.pusher = nil
	if resp, text := do(t, "POST", server.URL+"/pusher"); resp.StatusCode != 500 || !strings.Contains(text, "its log says what") {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	a.pusher = working
	if resp, text := do(t, "POST", server.URL+"/pusher"); resp.StatusCode != 200 {
		t.Errorf("the next click: %d %q", resp.StatusCode, text)
	}
	if !strings.Contains(log.String(), "main.go") || !strings.Contains(log.String(), "nil pointer") {
		t.Errorf("the log: %s", log.String())
	}
}

// runProgram is run, in an empty folder.
func runProgram(t *testing.T, env map[string]string, args ...string) (stdout string, err error) {
	t.Helper()
	t.Chdir(t.TempDir())
	var out bytes.Buffer
	err = run(t.Context(), args, func(name string) string { return env[name] }, &out, io.Discard)
	return out.String(), err
}

func TestTriggerCommand(t *testing.T) {
	upstream := startPusher(t)
	env := map[string]string{"PUSHER_URL": upstream.URL}
	tests := []struct {
		args []string
		want string // the event, as taken
	}{
		{[]string{"trigger"}, `{"channels":["test_channel"],"data":"{\"message\":\"hello world\"}","name":"my_event"}`},
		{[]string{"trigger", "a"}, `{"channels":["a"],"data":"{\"message\":\"hello world\"}","name":"my_event"}`},
		{[]string{"trigger", "a", "b", "c d"}, `{"channels":["a"],"data":"c d","name":"b"}`},
	}
	for i, tt := range tests {
		out, err := runProgram(t, env, tt.args...)
		if err != nil || !strings.Contains(out, " took the event ") {
			t.Fatalf("%v: %v %s", tt.args, err, out)
		}
		if upstream.taken[i] != tt.want {
			t.Errorf("%v triggered %s, want %s", tt.args, upstream.taken[i], tt.want)
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
		{"too many words", env, []string{"trigger", "a", "b", "c", "d"}, "put quotes around"},
		{"wrong secret", map[string]string{"PUSHER_URL": strings.Replace(upstream.URL, "testsecret", "othersecret", 1)}, []string{"trigger"}, "the secret is wrong"},
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
		{"version", nil, []string{"-version"}, "go1.", ""},
		{"unknown flag", nil, []string{"-x"}, "", "pusher-sample -h"},
		{"unknown command", nil, []string{"tigger"}, "", `no command "tigger"`},
		{"bad port", map[string]string{"PORT": "http"}, nil, "", "PORT"},
		{"bad URL", map[string]string{"PUSHER_URL": "https://k:hush@api-eu.pusher.com"}, nil, "", "PUSHER_URL"},
		{"port in use", map[string]string{"PORT": port}, nil, "", `use another port with "PORT=5001 go run ."`},
		{"debug elsewhere", map[string]string{"PORT": "0"}, []string{"-debug"}, "", "start in the folder of the source code"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := runProgram(t, tt.env, tt.args...)
			if !strings.Contains(out, tt.out) || (err == nil) != (tt.fail == "") || err != nil && !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("printed %q, error %v; want %q, %q", out, err, tt.out, tt.fail)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hush")) {
				t.Errorf("not one line, or a secret: %v", err)
			}
		})
	}
}

// With -debug, files are read anew at each request, and what passes is logged.
func TestDebug(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.CopyFS(dir, bundled); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := newTestApp(t, settings.Settings{}, &log)
	a.debug = true
	handler := handlerOf(t, a)
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, w.Body.String()
	}
	edit := func(name, text string) {
		if err := os.WriteFile(filepath.FromSlash(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, text := ask("GET", "/"); !strings.Contains(text, `data-debug="true"`) {
		t.Error("the page does not know that it is debugged")
	}
	edit("templates/index.html", "edited {{.Key}}")
	edit("static/app.js", "edited too")
	if _, text := ask("GET", "/"); text != "edited local" {
		t.Errorf("after an edit: %q", text)
	}
	if _, text := ask("GET", "/static/app.js"); text != "edited too" {
		t.Errorf("after an edit: %q", text)
	}
	edit("templates/index.html", "one\ntwo {{.Nothing}}")
	if status, text := ask("GET", "/"); status != 500 || !strings.Contains(text, "index.html:2") {
		t.Errorf("a mistake: %d %q", status, text)
	}
	if status, _ := ask("POST", "/pusher"); status != 200 || !strings.Contains(log.String(), "channel=channel1 event=event1") {
		t.Errorf("status %d; the log has no event: %s", status, log.String())
	}
}

// program is the built binary, running in an empty folder.
type program struct {
	t     testing.TB
	cmd   *exec.Cmd
	page  string // its address
	ended chan error
}

var buildProgram = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(scratch, "pusher-sample")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

// freePort is a port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func startProgram(t testing.TB, env ...string) *program {
	t.Helper()
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.Command(binary), ended: make(chan error, 1)}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{"HOME=" + p.cmd.Dir, "NO_PROXY=*"}, env...)
	lines, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	go func() {
		defer close(ready)
		serving := regexp.MustCompile(`msg=ready page=http://[^:]+(:\d+)/`)
		for in := bufio.NewScanner(lines); in.Scan(); {
			watchedLog{t}.Write(in.Bytes())
			if m := serving.FindStringSubmatch(in.Text()); m != nil {
				ready <- "http://127.0.0.1" + m[1]
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() { p.cmd.Process.Kill() })
	select {
	case p.page = <-ready:
		if p.page == "" {
			t.Fatal("the program ended at its start")
		}
	case <-time.After(patience):
		t.Fatal("the program did not start")
	}
	return p
}

// stop sends a real SIGTERM and returns how the program ended.
func (p *program) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return p.wait()
}

// waitClosed waits until the program takes no more connections.
func (p *program) waitClosed() {
	p.t.Helper()
	waitFor(p.t, "new connections to be refused", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.page, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

func (p *program) wait() error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(patience):
		p.t.Fatal("the program did not end")
		return nil
	}
}

// closing keeps the code that a socket is closed with.
type closing struct {
	gws.BuiltinEventHandler
	code chan int
}

func (c closing) OnClose(_ *gws.Conn, err error) {
	code := 0
	if closed := new(gws.CloseError); errors.As(err, &closed) {
		code = int(closed.Code)
	}
	c.code <- code
}

// At SIGTERM sockets are told to come back at once, and the program ends well.
func TestStopTellsSocketsToComeBack(t *testing.T) {
	p := startProgram(t, "PORT="+freePort(t))
	closed := make(chan int, 1)
	conn, _, err := gws.NewClient(closing{code: closed}, &gws.ClientOption{Addr: "ws" + strings.TrimPrefix(p.page, "http") + "/app/local?protocol=7"})
	if err != nil {
		t.Fatal(err)
	}
	go conn.ReadLoop()
	if err := p.stop(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	if code := <-closed; code != 4200 {
		t.Errorf("the socket was closed with %d, want 4200", code)
	}
}

// SIGTERM in the middle of 300 clicks: each has ok, an error, or no connection any
// more, and each ok is one event.
func TestStopUnderClicks(t *testing.T) {
	upstream := startPusher(t)
	release := make(chan bool)
	upstream.answer(func(w http.ResponseWriter, r *http.Request) {
		if upstream.count() >= 50 {
			<-release
		}
		upstream.serve(w, r)
	})
	p := startProgram(t, "PORT="+freePort(t), "PUSHER_URL="+upstream.URL, "RATE_LIMIT=0")
	var clicks sync.WaitGroup
	var got tally
	for range 300 {
		clicks.Go(func() { got.click(p.page) })
	}
	waitFor(t, "some clicks to be answered", func() bool { return got.count("200 ok") >= 50 })
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.waitClosed()
	close(release)
	clicks.Wait()
	if err := p.wait(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	ok := got.count("200 ok")
	if taken := upstream.count(); taken != ok || ok+got.count("503 ")+got.count("none") != 300 {
		t.Errorf("%d events for these answers: %v", taken, got.answers)
	}
}

// A click that runs when SIGTERM comes is answered, while new ones are refused; a
// second signal ends the program at once.
func TestStopFinishesRunningClicks(t *testing.T) {
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprint("second signal ", twice), func(t *testing.T) {
			upstream := startPusher(t)
			arrived, release := make(chan bool), make(chan bool)
			upstream.answer(func(w http.ResponseWriter, r *http.Request) {
				arrived <- true
				<-release
				io.WriteString(w, "{}")
			})
			defer func() {
				select {
				case <-release:
				default:
					close(release)
				}
			}()
			p := startProgram(t, "PORT="+freePort(t), "PUSHER_URL="+upstream.URL)
			answer := make(chan string, 1)
			go func() {
				resp, err := http.Post(p.page+"/pusher", "", nil)
				if err != nil {
					answer <- "cut"
					return
				}
				defer resp.Body.Close()
				text, _ := io.ReadAll(resp.Body)
				answer <- string(text)
			}()
			<-arrived
			p.cmd.Process.Signal(syscall.SIGTERM)
			p.waitClosed()
			if twice {
				if err := p.stop(); err == nil {
					t.Error("the program ended as if all was finished")
				}
				return
			}
			close(release)
			if got := <-answer; got != "ok" {
				t.Errorf("the running click got %q", got)
			}
			if err := p.wait(); err != nil {
				t.Errorf("the program ended with %v", err)
			}
		})
	}
}

// Sockets come and go, clicks are made and nonsense is sent, for as long as SOAK
// says: one that listens all the while hears every ok, and at the end nothing is left.
func TestSoak(t *testing.T) {
	length := time.Second
	if given := os.Getenv("SOAK"); given != "" {
		var err error
		if length, err = time.ParseDuration(given); err != nil {
			t.Fatal(err)
		}
	}
	app := startApp(t, map[string]string{"RATE_LIMIT": "0"})
	socket := "ws" + strings.TrimPrefix(app.URL, "http") + "/app/local?protocol=7"
	subscribe := func(listener gws.Event) *gws.Conn {
		conn, _, err := gws.NewClient(listener, &gws.ClientOption{Addr: socket})
		if err != nil {
			t.Error(err)
			return nil
		}
		go conn.ReadLoop()
		conn.WriteString(`{"event":"pusher:subscribe","data":{"channel":"channel1"}}`)
		return conn
	}
	steady := make(chan string, 100_000)
	listener := subscribe(hearing{messages: steady})
	waitFor(t, "a subscription", func() bool { return len(steady) == 2 })
	before := inUse()

	end := time.Now().Add(length)
	var working sync.WaitGroup
	var clicks tally
	var sockets, messages atomic.Int64
	nonsense := []string{"", "{", "[]", `{"event":1}`, `{"event":"pusher:subscribe","data":{"channel":"a b"}}`, `{"event":"client-x","channel":"channel1","data":{}}`, strings.Repeat("x", 50_000)}
	for i := range 200 {
		working.Go(func() {
			random := mathrand.New(mathrand.NewPCG(1, uint64(i)))
			for time.Now().Before(end) {
				conn := subscribe(gws.BuiltinEventHandler{})
				if conn == nil {
					return
				}
				sockets.Add(1)
				for range random.IntN(20) {
					conn.WriteString(nonsense[random.IntN(len(nonsense))])
					messages.Add(1)
					time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				}
				switch random.IntN(4) { // ways to go
				case 0:
					conn.WriteClose(1000, nil)
				case 1:
					conn.WriteMessage(gws.OpcodeBinary, []byte("x"))
				case 2:
					conn.NetConn().Write([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
				}
				conn.NetConn().Close()
			}
		})
	}
	for range 4 {
		working.Go(func() {
			for time.Now().Before(end) {
				clicks.click(app.URL)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	working.Wait()
	ok := clicks.count("200 ok")
	if ok == 0 || ok != clicks.count("") {
		t.Errorf("answers to clicks: %v", clicks.answers)
	}
	waitFor(t, "the listener to hear of all clicks", func() bool { return len(steady) == 2+ok })
	for range 2 {
		<-steady // connected, subscribed
	}
	for range ok {
		if m := <-steady; !strings.Contains(m, crash) {
			t.Errorf("the listener heard %s", m)
		}
	}
	var after resources
	waitFor(t, "goroutines to end and memory to be freed", func() bool {
		after = inUse()
		return after.goroutines <= before.goroutines && after.heap < before.heap+2<<20
	})
	t.Logf("%v: %d sockets, %d messages of nonsense, %d clicks; before %v, after %v", length, sockets.Load(), messages.Load(), ok, before, after)
	listener.NetConn().Close()
}

// hearing keeps what a socket hears.
type hearing struct {
	gws.BuiltinEventHandler
	messages chan string
}

func (h hearing) OnMessage(_ *gws.Conn, message *gws.Message) {
	h.messages <- message.Data.String()
	message.Close()
}

// resources are what a process uses.
type resources struct{ goroutines, heap int }

func (r resources) String() string {
	return fmt.Sprintf("%d goroutines and %d KB", r.goroutines, r.heap>>10)
}

func inUse() resources {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return resources{runtime.NumGoroutine(), int(m.HeapAlloc)}
}

func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

// npm is a folder with the real clients from npm.
var npm = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "npm")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", dir, "pusher@5.3.4", "pusher-js@8.6.0", "axe-core@4.14.1")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install: %w: %s", err, out)
	}
	return dir, nil
})

func npmFolder(t testing.TB) string {
	t.Helper()
	dir, err := npm()
	if err != nil {
		lacking(t, "pusher-js and pusher can't be had from npm: "+err.Error())
	}
	return dir
}

// Pusher's own clients for Node: one triggers by HTTP, the other hears.
func TestNodeClients(t *testing.T) {
	dir := npmFolder(t)
	a := newTestApp(t, settings.Settings{}, io.Discard)
	server := httptest.NewServer(handlerOf(t, a))
	t.Cleanup(server.Close)
	script := `
const assert = require('node:assert');
const PusherServer = require('pusher');
const PusherClient = require('pusher-js');
const { host, port, secret } = JSON.parse(process.env.SETTINGS);
const api = (over) => new PusherServer({ appId: '1', key: 'local', secret, host, port, useTLS: false, ...over });
const listen = () => new PusherClient('local', { cluster: 'local', wsHost: host, wsPort: port, forceTLS: false, enabledTransports: ['ws'] });

async function subscribe(pusher, name, heard) {
  const channel = pusher.subscribe(name);
  await new Promise((resolve) => channel.bind('pusher:subscription_succeeded', resolve));
  channel.bind_global((event, data) => event.startsWith('pusher:') || heard.push([name, event, data]));
}
async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
async function refused(status, promise) {
  await assert.rejects(promise, (error) => error.status === status || assert.fail(` + "`${error.status} ${error.body}`" + `));
}

(async () => {
  const one = listen(), two = listen(), heard1 = [], heard2 = [];
  await subscribe(one, 'a', heard1);
  await subscribe(two, 'a', heard2);
  await subscribe(two, 'b', heard2);
  const server = api();

  await server.trigger('a', 'single', { n: 1 });
  await server.trigger(['a', 'b'], 'both', '柱');
  const batch = Array.from({ length: 10 }, (_, i) => ({ channel: 'a', name: 'batch', data: i }));
  await server.triggerBatch(batch);
  await server.trigger('a', 'except', 'x', { socket_id: one.connection.socket_id });
  await server.trigger('a', 'end', 'x');
  const ended = (heard) => heard.some(([, event]) => event === 'end');
  await until(() => ended(heard1) && ended(heard2));

  const common = [['a', 'single', { n: 1 }], ['a', 'both', '柱']];
  const batched = Array.from({ length: 10 }, (_, i) => ['a', 'batch', i]);
  assert.deepStrictEqual(heard1, [...common, ...batched, ['a', 'end', 'x']]);
  assert.deepStrictEqual(heard2, [...common, ['b', 'both', '柱'], ...batched, ['a', 'except', 'x'], ['a', 'end', 'x']]);

  await refused(401, api({ secret: 'wrong' }).trigger('a', 'no', 'x'));
  await refused(400, api({ key: 'wrong' }).trigger('a', 'no', 'x'));
  await refused(404, api({ appId: '2' }).trigger('a', 'no', 'x'));
  for (const minutes of [-11, 11]) {
    const now = Date.now;
    Date.now = () => now() + minutes * 60_000;
    await refused(401, server.trigger('a', 'no', 'x')).finally(() => { Date.now = now; });
  }
  const body = JSON.stringify({ name: 'no', channels: ['a'], data: 'x' });
  const query = server.createSignedQueryString({ method: 'POST', path: '/apps/1/events', body, params: {} });
  const send = (body) => fetch(` + "`http://${host}:${port}/apps/1/events?${query}`" + `, { method: 'POST', body });
  assert.strictEqual((await send(body.replace('"x"', '"y"'))).status, 401);
  assert.strictEqual(heard1.length, 13);
  assert.strictEqual((await send(body)).status, 200); // it was the change alone
  console.log('all heard');
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
`
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	given, _ := json.Marshal(map[string]string{"host": host, "port": port, "secret": a.settings.Secret})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "-e", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SETTINGS="+string(given))
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "all heard") {
		t.Errorf("%v: %s", err, out)
	}
}

// certificate is for all hosts of the tests, and signed by itself.
var certificate = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"*.pusher.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
})

// startTLS serves by TLS, with the tests' certificate.
func startTLS(t testing.TB, handler http.Handler) *httptest.Server {
	t.Helper()
	own, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// startBrowser starts a Chromium that trusts the tests' certificate, with more flags.
func startBrowser(flags ...chromedp.ExecAllocatorOption) (ctx context.Context, stop func(), err error) {
	own, err := certificate()
	if err != nil {
		return nil, nil, err
	}
	pin := sha256.Sum256(own.Leaf.RawSubjectPublicKeyInfo)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(pin[:])))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // which Chromium refuses to root
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(options, flags...)...)
	ctx, _ = chromedp.NewContext(allocator)
	return ctx, func() { chromedp.Cancel(ctx); end() }, chromedp.Do(ctx)
}

// The browser, started once, and what ends it.
var (
	closeBrowser func()
	browser      = sync.OnceValues(func() (ctx context.Context, err error) {
		ctx, closeBrowser, err = startBrowser()
		return ctx, err
	})
)

// cdn is what the address of pusher-js answers in a test's browser.
type cdn int

const (
	served  cdn = iota // the real pusher-js, from npm
	blocked            // an error at once
	silent             // nothing, ever
)

// tab is one open page.
type tab struct {
	t      testing.TB
	ctx    context.Context
	alerts chan string
}

func newTab(t testing.TB, answer cdn) *tab {
	t.Helper()
	root, err := browser()
	if err != nil {
		lacking(t, "no Chromium can be started: "+err.Error())
	}
	return newTabIn(t, root, answer)
}

func newTabIn(t testing.TB, browser context.Context, answer cdn) *tab {
	t.Helper()
	var err error
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &tab{t, ctx, make(chan string, 100)}
	var library []byte
	if answer == served {
		if library, err = os.ReadFile(filepath.Join(npmFolder(t), "node_modules/pusher-js/dist/web/pusher.min.js")); err != nil {
			t.Fatal(err)
		}
	}
	p.do(chromedp.Navigate("about:blank"))
	dialogs, requests := chromedp.Events(ctx, cdpage.JavascriptDialogOpening), chromedp.Events(ctx, fetch.RequestPaused)
	go func() {
		for dialog, err := range dialogs {
			if err != nil {
				return
			}
			p.alerts <- dialog.Message
			chromedp.Call(ctx, cdpage.HandleJavaScriptDialog, cdpage.HandleJavaScriptDialogParams{Accept: true})
		}
	}()
	go func() {
		for request, err := range requests {
			switch {
			case err != nil:
				return
			case answer == served:
				chromedp.Call(ctx, fetch.FulfillRequest, fetch.FulfillRequestParams{
					RequestID: request.RequestID, ResponseCode: 200, Body: library,
					ResponseHeaders: []*fetch.HeaderEntry{
						{Name: "Content-Type", Value: "text/javascript"}, {Name: "Access-Control-Allow-Origin", Value: "*"},
					}})
			case answer == blocked:
				chromedp.Call(ctx, fetch.FailRequest, fetch.FailRequestParams{
					RequestID: request.RequestID, ErrorReason: cdnetwork.ErrorReasonConnectionRefused})
			}
		}
	}()
	if _, err := chromedp.Call(ctx, fetch.Enable, fetch.EnableParams{
		Patterns: []*fetch.RequestPattern{{URLPattern: "https://js.pusher.com/*"}}}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// open opens a page and waits until it is in a state, with a client.
func (p *tab) open(url, state, client string) {
	p.t.Helper()
	// Not chromedp.Navigate, which waits for all to be loaded: a silent CDN never is.
	if _, err := chromedp.Call(p.ctx, cdpage.Navigate, cdpage.NavigateParams{URL: url}); err != nil {
		p.t.Fatal(err)
	}
	p.await(fmt.Sprintf("document.body?.dataset.client === %q", client))
	p.awaitState(state)
}

// await waits until an expression is true in the page.
func (p *tab) await(expression string) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		// An error is no answer: the page may be about to be replaced.
		if is, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](expression)); err == nil && is {
			return
		}
		if time.Now().After(end) {
			at, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body.innerText + JSON.stringify(document.body.dataset)"))
			p.t.Fatalf("waited in vain for %s\nthe page: %s", expression, at)
		}
	}
}

func (p *tab) awaitState(state string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.body?.dataset.state === %q", state))
}

func (p *tab) awaitProblem(text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("document.getElementById('problem').textContent.includes(%q)", text))
}

func (p *tab) click() {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void]("document.getElementById('push').click()"))
}

func (p *tab) wantAlert() {
	p.t.Helper()
	select {
	case got := <-p.alerts:
		if got != crash {
			p.t.Errorf("alert %q, want %q", got, crash)
		}
	case <-time.After(patience):
		p.t.Fatal("no alert came")
	}
}

// Two tabs, a click in one, an alert in both; as often as is clicked, and no more.
func TestBothTabsAlert(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer cdn
		client string
	}{
		{"pusher-js", served, "pusher-js"},
		{"CDN blocked", blocked, "stand-in"},
		{"CDN silent", silent, "stand-in"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			app := startApp(t, nil)
			one, two := newTab(t, tt.answer), newTab(t, tt.answer)
			one.open(app.URL, "connected", tt.client)
			two.open(app.URL, "connected", tt.client)
			for range 3 {
				one.click()
				one.wantAlert()
				two.wantAlert()
			}
			two.click()
			one.wantAlert()
			two.wantAlert()
			if len(one.alerts)+len(two.alerts) > 0 {
				t.Error("an alert came that nobody clicked for")
			}
		})
	}
}

// The integrity of the page's link is the real file's: any other is not run.
func TestTamperedLibraryIsNotRun(t *testing.T) {
	app := startApp(t, nil)
	p := newTab(t, served)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, body := do(t, "GET", app.URL+r.URL.Path)
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		io.WriteString(w, strings.Replace(body, "sha384-y", "sha384-z", 1))
	}))
	defer page.Close()
	p.open(page.URL, "connecting", "stand-in") // whose policy lets it connect nowhere else
}

func TestPageReconnectsAfterARestart(t *testing.T) {
	for _, tt := range []struct {
		answer cdn
		client string
	}{{served, "pusher-js"}, {blocked, "stand-in"}} {
		t.Run(tt.client, func(t *testing.T) {
			port := freePort(t)
			first := startProgram(t, "PORT="+port)
			p := newTab(t, tt.answer)
			p.open(first.page, "connected", tt.client)
			if err := first.stop(); err != nil {
				t.Fatal(err)
			}
			p.awaitState("lost")
			second := startProgram(t, "PORT="+port)
			p.awaitState("connected")
			if _, text := do(t, "POST", second.page+"/pusher"); text != "ok" {
				t.Fatal(text)
			}
			p.wantAlert()
		})
	}
}

// What goes wrong is said on the page.
func TestPageSaysWhatFailed(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL})
	p := newTab(t, served)
	p.open(app.URL, "connected", "pusher-js") // to upstream, as a server of one's own
	upstream.answer(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "API call failed since (daily) message quota exceeded", http.StatusForbidden)
	})
	p.click()
	p.awaitProblem("message quota is used up")
	upstream.answer(nil)
	p.click()
	p.wantAlert()
	p.await("document.getElementById('problem').textContent === ''")

	app.Close()
	p.click()
	p.awaitProblem("The server can't be reached")
}

// A key that the server does not know is explained.
func TestPageSaysThatItIsRefused(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": strings.Replace(upstream.URL, "testkey", "otherkey", 1)})
	for _, tt := range []struct {
		answer cdn
		client string
	}{{served, "pusher-js"}, {blocked, "stand-in"}} {
		p := newTab(t, tt.answer)
		p.open(app.URL, "refused", tt.client)
		p.await("document.getElementById('status').textContent.includes('4001')")
	}
}

// What a server closes a socket with is said in words for the person at the page.
func TestPageSaysWhyItIsClosed(t *testing.T) {
	upstream := startPusher(t)
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL})
	for _, tt := range []struct {
		code        int
		state, text string
	}{
		{4004, "refused", "over its Pusher quota"},
		{4100, "busy", "over capacity"},
		{4123, "busy", "asked this page to wait (code 4123)"},
		{4009, "refused", "Refused (code 4009)"},
	} {
		upgrader := gws.NewUpgrader(gws.BuiltinEventHandler{}, nil)
		upstream.answer(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Origin")
			conn, err := upgrader.Upgrade(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			conn.WriteString(fmt.Sprintf(`{"event":"pusher:error","data":{"code":%d,"message":"no"}}`, tt.code))
			conn.WriteClose(uint16(tt.code), []byte("no"))
		})
		for _, answer := range []cdn{served, blocked} {
			t.Run(fmt.Sprint(tt.code, " client ", answer), func(t *testing.T) {
				p := newTab(t, answer)
				p.open(app.URL, tt.state, map[cdn]string{served: "pusher-js", blocked: "stand-in"}[answer])
				p.await(fmt.Sprintf("document.getElementById('status').textContent.includes(%q)", tt.text))
			})
		}
	}
}

// Where WebSockets are blocked and nothing stands in for them, the page says so.
func TestPageSaysThatWebSocketsAreBlocked(t *testing.T) {
	upstream := startPusher(t)
	upstream.answer(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Blocked by a proxy.", http.StatusForbidden)
	})
	app := startApp(t, map[string]string{"PUSHER_URL": upstream.URL})
	var pages sync.WaitGroup // together: the clients take 10 s to give up
	for answer, client := range map[cdn]string{served: "pusher-js", blocked: "stand-in"} {
		p := newTab(t, answer)
		pages.Go(func() {
			p.open(app.URL, "blocked", client)
			p.await("document.getElementById('status').textContent.includes('may be blocking WebSockets')")
		})
	}
	pages.Wait()
}

// sockJS is the part of SockJS that Pusher has for browsers without WebSockets, and
// pusher-js speaks: a stream of messages, and posts. It passes on to a WebSocket.
func sockJS(t testing.TB, socket string) http.Handler {
	var sessions sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("POST /pusher/app/{key}/{number}/{session}/xhr_streaming", func(w http.ResponseWriter, r *http.Request) {
		heard := hearing{messages: make(chan string, 100)}
		conn, _, err := gws.NewClient(heard, &gws.ClientOption{Addr: socket + "/app/" + r.PathValue("key") + "?protocol=7"})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.NetConn().Close()
		go conn.ReadLoop()
		sessions.Store(r.PathValue("session"), conn)
		io.WriteString(w, strings.Repeat("h", 2048)+"\no\n")
		for {
			http.NewResponseController(w).Flush()
			select {
			case m := <-heard.messages:
				quoted, _ := json.Marshal([]string{m})
				fmt.Fprintf(w, "a%s\n", quoted)
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST /pusher/app/{key}/{number}/{session}/xhr_send", func(w http.ResponseWriter, r *http.Request) {
		var messages []string
		if err := json.NewDecoder(r.Body).Decode(&messages); err != nil {
			t.Error(err)
		}
		conn, ok := sessions.Load(r.PathValue("session"))
		for _, m := range messages {
			if ok {
				conn.(*gws.Conn).WriteString(m)
			}
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "*")
		if r.Method != "OPTIONS" {
			mux.ServeHTTP(w, r)
		}
	})
}

// A hosted cluster, under its own name and with TLS: the page's policy lets pusher-js
// reach it by WebSocket, and where those are blocked by its own other ways.
func TestHostedCluster(t *testing.T) {
	for _, webSockets := range []bool{true, false} {
		t.Run(fmt.Sprint("WebSockets ", webSockets), func(t *testing.T) {
			upstream := startPusher(t)
			fallback := sockJS(t, "ws"+strings.TrimPrefix(upstream.Server.URL, "http"))
			var hosts sync.Map // that were asked
			cluster := startTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				hosts.Store(r.Host, true)
				switch {
				case strings.HasPrefix(r.Host, "sockjs-"):
					fallback.ServeHTTP(w, r)
				case strings.HasPrefix(r.Host, "ws-") && !webSockets:
					http.Error(w, "Blocked by a proxy.", http.StatusForbidden)
				default:
					upstream.serve(w, r)
				}
			}))
			address := cluster.Listener.Addr().String()

			set, err := settings.Load(func(name string) string {
				return map[string]string{"PUSHER_URL": "http://testkey:testsecret@api-eu.pusher.com/apps/1234"}[name]
			}, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			a := newTestApp(t, set, watchedLog{t})
			toCluster := cluster.Client().Transport.(*http.Transport).Clone()
			toCluster.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			a.pusher = newClient(set, toCluster)
			page := startTLS(t, handlerOf(t, a))

			browser, stop, err := startBrowser(chromedp.Flag("host-resolver-rules", "MAP *.pusher.com "+address))
			if err != nil {
				lacking(t, "no Chromium can be started: "+err.Error())
			}
			defer stop()
			p := newTabIn(t, browser, served)
			p.open(page.URL, "connected", "pusher-js")
			p.click()
			p.wantAlert()
			for host, want := range map[string]bool{"api-eu.pusher.com": true, "ws-eu.pusher.com": true, "sockjs-eu.pusher.com": !webSockets} {
				if _, asked := hosts.Load(host); asked != want {
					t.Errorf("%s was asked: %v, want %v", host, asked, want)
				}
			}
		})
	}
}

// Two instances with one PUSHER_URL: a click on either alerts the pages of both.
func TestTwoInstances(t *testing.T) {
	upstream := startPusher(t)
	var pages []*tab
	for range 2 {
		instance := startProgram(t, "PORT="+freePort(t), "PUSHER_URL="+upstream.URL)
		p := newTab(t, served)
		p.open(instance.page, "connected", "pusher-js")
		pages = append(pages, p)
	}
	for _, clicked := range pages {
		clicked.click()
		for _, p := range pages {
			p.wantAlert()
		}
	}
}

// The embedded server of one instance is the Channels server of another. A proxy gives
// both one address, as pages may connect to their own only.
func TestEmbeddedServerServesAnotherInstance(t *testing.T) {
	first := newTestApp(t, settings.Settings{}, io.Discard)
	handler := handlerOf(t, first)
	var second *httptest.Server
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/app") {
			handler.ServeHTTP(w, r)
		} else {
			second.Config.Handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(proxy.Close)
	second = startApp(t, map[string]string{"PUSHER_URL": strings.Replace(proxy.URL, "//", "//local:"+first.settings.Secret+"@", 1) + "/apps/1"})
	one, two := newTab(t, served), newTab(t, served)
	one.open(proxy.URL, "connected", "pusher-js")
	two.open(proxy.URL, "connected", "pusher-js")
	one.click()
	one.wantAlert()
	two.wantAlert()
}

// The Procfile, under a process manager: the port, the add-on's variables of old, the end.
func TestProcfile(t *testing.T) {
	foreman, err := exec.LookPath("foreman")
	if err != nil {
		lacking(t, "foreman is not installed: "+err.Error())
	}
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	procfile, err := os.ReadFile("Procfile")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "Procfile"), procfile, 0o644),
		os.Mkdir(filepath.Join(dir, "bin"), 0o755),
		os.Symlink(binary, filepath.Join(dir, "bin", "pusher-sample")),
	); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	var out bytes.Buffer
	cmd := exec.Command(foreman, "start", "-p", port)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	cmd.Env = append(os.Environ(), "DYNO=web.1",
		"PUSHER_URL=http://testkey:testsecret@api.pusherapp.com/apps/1",
		"PUSHER_SOCKET_URL=ws://ws.pusherapp.com:80/app/testkey")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	waitFor(t, "the page", func() bool {
		resp, err := http.Get("http://127.0.0.1:" + port + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	resp, page := do(t, "GET", "http://127.0.0.1:"+port, "X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.1")
	if want := `data-key="testkey" data-cluster="mt1" data-socket=""`; !strings.Contains(page, want) || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%v\n%s", resp.Header, page)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if log := out.String(); !strings.Contains(log, "exited with code 0") || strings.Contains(log, "testsecret") {
		t.Errorf("the log: %s", log)
	}
}

// The keyboard alone is enough to click.
func TestKeyboard(t *testing.T) {
	p := newTab(t, blocked)
	p.open(startApp(t, nil).URL, "connected", "stand-in")
	p.do(chromedp.KeyEvent("\t"))
	for _, key := range []string{"\r", " "} {
		p.await("document.activeElement.id === 'push' && document.activeElement.matches(':focus-visible')")
		p.do(chromedp.KeyEvent(key))
		p.wantAlert()
	}
}

// The rules of axe-core, in both color schemes, in each state that looks different.
func TestAccessibility(t *testing.T) {
	library, err := os.ReadFile(filepath.Join(npmFolder(t), "node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	upstream := startPusher(t)
	working := startApp(t, map[string]string{"DYNO": "web.1"})
	refused := startApp(t, map[string]string{"PUSHER_URL": strings.Replace(upstream.URL, "testkey", "otherkey", 1)})
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			p := newTab(t, blocked)
			if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}); err != nil {
				t.Fatal(err)
			}
			check := func() {
				t.Helper()
				p.do(chromedp.Evaluate[chromedp.Void](string(library) + "; undefined"))
				p.do(chromedp.Evaluate[chromedp.Void]("axe.run().then((r) => { window.axeResult = r }); undefined"))
				p.await("!!window.axeResult")
				found, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](`axeResult.passes.length < 10 ? 'little was checked' :
					axeResult.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join('\n')).join('\n')`))
				if err != nil || found != "" {
					t.Errorf("%v %s", err, found)
				}
			}
			p.open(working.URL, "connected", "stand-in")
			check()
			p.open(refused.URL, "refused", "stand-in")
			p.click() // which fails
			p.await("document.getElementById('problem').textContent !== ''")
			check()
		})
	}
}

// benchmark asks the app, and then a server that does the least for the same answer,
// over several connections. What one has over the other is the app's own cost; both
// include the client.
func benchmark(b *testing.B, method, app string, least http.HandlerFunc) {
	floor := httptest.NewServer(least)
	b.Cleanup(floor.Close)
	for _, tt := range []struct{ name, url string }{{"app", app}, {"floor", floor.URL}} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, err := http.NewRequest(method, tt.url, nil)
					if err != nil {
						b.Error(err)
						return
					}
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
		})
	}
}

// BenchmarkIndex is the page, asked for and answered; the floor writes as many bytes.
func BenchmarkIndex(b *testing.B) {
	app := startApp(b, nil).URL
	_, text := do(b, "GET", app)
	page := []byte(text)
	benchmark(b, "GET", app, func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
}

// BenchmarkPush is a click, all the way to an API that answers at once, and back; the
// floor's call is neither signed nor checked nor bounded.
func BenchmarkPush(b *testing.B) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "{}")
	}))
	b.Cleanup(api.Close)
	app := startApp(b, map[string]string{"PUSHER_URL": "http://k:s@" + strings.TrimPrefix(api.URL, "http://") + "/apps/1", "RATE_LIMIT": "0"})
	client := &http.Client{Transport: network()}
	benchmark(b, "POST", app.URL+"/pusher", func(w http.ResponseWriter, r *http.Request) {
		resp, err := client.Post(api.URL, "application/json", strings.NewReader(`{"name":"event1","channels":["channel1"],"data":"{}"}`))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		io.WriteString(w, "ok")
	})
}
