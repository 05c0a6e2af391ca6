// Tests deployments: the Procfile, several instances, Pusher's hosted clusters, and self-hosted
// servers.
package e2e

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/chromedp"
)

// With a hosted cluster, under its real name and over TLS, the Content-Security-Policy lets
// pusher-js connect by WebSocket, and by SockJS if WebSockets are blocked.
func TestHostedCluster(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("on this system no variable makes a Go program trust the test's certificate")
	}
	for _, webSockets := range []bool{true, false} {
		t.Run(fmt.Sprint("WebSockets ", webSockets), func(t *testing.T) {
			t.Parallel()
			upstream := pushertest.NewServer(t)
			sockJS := pushertest.SockJS(t, upstream.HTTP.URL)
			var hosts sync.Map // hosts that received a connection
			cluster := pushertest.NewTLSServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				hosts.Store(r.Host, true)
				switch {
				case strings.HasPrefix(r.Host, "sockjs-"):
					sockJS.ServeHTTP(w, r)
				case strings.HasPrefix(r.Host, "ws-") && !webSockets:
					http.Error(w, "Blocked by a proxy.", http.StatusForbidden)
				default:
					upstream.ServeHTTP(w, r)
				}
			}))
			address := cluster.Listener.Addr().String()
			authority := filepath.Join(t.TempDir(), "authority.pem")
			if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cluster.Certificate().Raw}), 0o644); err != nil {
				t.Fatal(err)
			}
			app := start(t, "PUSHER_URL=http://testkey:testsecret@api-eu.pusher.com/apps/1234",
				"HTTPS_PROXY="+startProxy(t, address), "SSL_CERT_FILE="+authority)
			target, err := url.Parse(app.url)
			if err != nil {
				t.Fatal(err)
			}
			page := pushertest.NewTLSServer(t, httputil.NewSingleHostReverseProxy(target))

			requirePage(t)
			browser, stop, err := launch(chromedp.Flag("host-resolver-rules", "MAP *.pusher.com "+address))
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			p := newTabIn(t, browser, served)
			p.open(page.URL, "connected")
			p.click()
			p.wantAlert()
			for host, want := range map[string]bool{"api-eu.pusher.com": true, "ws-eu.pusher.com": true, "sockjs-eu.pusher.com": !webSockets} {
				if _, connected := hosts.Load(host); connected != want {
					t.Errorf("connected to %s: %v, want %v", host, connected, want)
				}
			}
		})
	}
}

// startProxy starts an HTTP proxy that connects every client to address, whatever host the
// client requests. It returns the proxy's URL.
func startProxy(t testing.TB, address string) string {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			t.Errorf("the proxy got %s %s without TLS", r.Method, r.URL)
			return
		}
		server, err := net.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(server, client)
		io.Copy(client, server)
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// Two instances share one PUSHER_URL: a click in a page of one alerts the pages of both.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	upstream := pushertest.NewServer(t)
	var pages []*tab
	for range 2 {
		instance := start(t, "PUSHER_URL="+upstream.PusherURL)
		p := newTab(t, served)
		p.open(instance.url, "connected")
		pages = append(pages, p)
	}
	for _, clicked := range pages {
		clicked.click()
		for _, p := range pages {
			p.wantAlert()
		}
	}
}

// The page connects to a server at an IPv6 address, which a Content-Security-Policy can't contain.
func TestServerAtIPv6Address(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 loopback address: ", err)
	}
	listener.Close()
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-addr", "[::1]:0")
	cmd.Dir, cmd.Env = t.TempDir(), []string{}
	server := startCommand(t, cmd)
	app := start(t, "PUSHER_URL="+server.pusherURL())
	for _, cdn := range bothClients {
		p := newTab(t, cdn)
		p.open(app.url, "connected")
		p.click()
		p.wantAlert()
	}
}

// The commands that the program prints work (here with a built program and a free port): trigger,
// and a second instance that shares the events.
func TestSecondTerminal(t *testing.T) {
	t.Parallel()
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(binary, args...)
		cmd.Dir, cmd.Env = t.TempDir(), []string{}
		return cmd
	}
	first := startCommand(t, command("-addr", "127.0.0.1:0"))
	var lines [][]string
	pushertest.WaitFor(t, "the commands", func() bool {
		lines = regexp.MustCompile(`(?m)^  (PUSHER_URL=\S+) (\S+) (.*)$`).FindAllStringSubmatch(first.logged(), -1)
		return len(lines) == 2
	})

	event := sampleEvent(t)
	client := pushertest.Subscribe(t, first.url, "local", event.channel)
	trigger := exec.Command("sh", "-c", lines[0][0])
	trigger.Dir, trigger.Env = t.TempDir(), []string{}
	out, err := trigger.CombinedOutput()
	if want := strings.TrimPrefix(first.url, "http://") + fmt.Sprintf(" accepted the event %s on the channel %s.\n", event.name, event.channel); err != nil || string(out) != want {
		t.Fatalf("%s: %v, printed %s, want %s", lines[0][0], err, out, want)
	}
	if got := client.Next(t); !strings.Contains(got, "hello world") {
		t.Errorf("trigger sent %s", got)
	}

	flag, addr, _ := strings.Cut(lines[1][3], " ")
	if flag != "-addr" || !strings.HasPrefix(addr, "127.0.0.1:") || strings.HasSuffix(addr, ":"+first.port()) {
		t.Errorf("the second instance would listen on %s", lines[1][3])
	}
	cmd := command(flag, "127.0.0.1:0") // not the printed port, which may be in use
	cmd.Env = []string{lines[1][1]}
	second := startCommand(t, cmd)
	pushertest.Request(t, "POST", second.url+"/pusher")
	if got := client.Next(t); !strings.Contains(got, event.message) {
		t.Errorf("a click in the second instance sent %s", got)
	}
	t.Run("pages", func(t *testing.T) {
		pages := []*tab{newTab(t, served), newTab(t, served)}
		pages[0].open(first.url, "connected")
		pages[1].open(second.url, "connected")
		for _, clicked := range pages {
			clicked.click()
			for _, p := range pages {
				p.wantAlert()
			}
		}
	})
}

// Under a process manager, the Procfile starts the program on the given port. The program accepts
// the variables that old add-ons set, and ends on SIGTERM.
func TestProcfile(t *testing.T) {
	path, err := exec.LookPath("foreman")
	if err != nil {
		skip(t, foreman, err)
	}
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	procfile, err := os.ReadFile("../../Procfile")
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
	cmd := exec.Command(path, "start", "-p", "0")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DYNO=web.1", "PUSHER_CLUSTER=", "RATE_LIMIT=", "TRUST_PROXY=",
		"PUSHER_URL=http://testkey:testsecret@api.pusherapp.com/apps/1",
		"PUSHER_SOCKET_URL=ws://ws.pusherapp.com:80/app/testkey")
	app := startCommand(t, cmd)
	_, page := pushertest.Request(t, "GET", app.url, "X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.1")
	if want := `data-key="testkey" data-cluster="mt1" data-socket=""`; !strings.Contains(page, want) {
		t.Error(page)
	}
	app.stop() // ignore foreman's exit code, which is not the app's
	if log := app.logged(); !strings.Contains(log, "exited with code 0") {
		t.Errorf("the log: %s", log)
	}
}

// While the Channels server restarts, each click gets a response, each "ok" means one event, and
// each error says whether the event was sent, as far as that is known.
func TestUpstreamRestartsDuringClicks(t *testing.T) {
	for _, tt := range []struct {
		name string
		stop func(*http.Server) error
	}{
		{"graceful", func(s *http.Server) error { return s.Shutdown(t.Context()) }},
		{"abrupt", (*http.Server).Close},
	} {
		t.Run(tt.name, func(t *testing.T) {
			upstream := pushertest.NewServer(t)
			app := start(t, "PUSHER_URL="+upstream.PusherURL, "RATE_LIMIT=0")
			var got pushertest.Clicks
			var clicks sync.WaitGroup
			restarted := make(chan bool)
			for range 50 {
				clicks.Go(func() {
					for again := 3; again > 0; {
						got.Click(app.url)
						select {
						case <-restarted:
							again--
						default:
						}
					}
				})
			}
			pushertest.WaitFor(t, "clicks", func() bool { return len(upstream.Events()) > 100 })
			tt.stop(upstream.HTTP.Config)
			pushertest.WaitFor(t, "a click to fail", func() bool { return got.Count("refused the connection") > 0 })
			listener, err := net.Listen("tcp", upstream.HTTP.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			second := &http.Server{Handler: upstream.HTTP.Config.Handler}
			defer second.Close()
			go second.Serve(listener)
			before := got.Count("200 ok")
			close(restarted)
			clicks.Wait()

			ok, unknown := got.Count("200 ok"), got.Count("not known whether the event was sent")
			failed := got.Count("502 ") + got.Count("504 ")
			if got.Count("") != ok+failed {
				t.Errorf("some clicks got no response: %v", got.Responses())
			}
			if events := len(upstream.Events()); events < ok || events > ok+unknown || tt.name == "graceful" && events != ok {
				t.Errorf("%d events for these responses: %v", events, got.Responses())
			}
			if ok == before {
				t.Error("no click succeeded after the restart")
			}
		})
	}
}
