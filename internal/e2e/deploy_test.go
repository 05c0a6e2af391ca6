// Tests deployments: the Procfile, several instances, Pusher's hosted clusters, HTTPS, and reverse proxies.
package e2e

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/socket"

	"github.com/chromedp/chromedp"
)

// trustTests returns a variable that makes Go programs trust the tests' certificate.
func trustTests(t testing.TB) string {
	t.Helper()
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("on this system no variable makes a Go program trust the tests' certificate")
	}
	certificate := must(pushertest.Certificate())
	file := filepath.Join(t.TempDir(), "certificate.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return "SSL_CERT_FILE=" + file
}

// proxyTo starts an HTTP proxy that connects every client to address, whatever host the client requests. It returns the
// variable that makes programs use the proxy.
func proxyTo(t testing.TB, address string) string {
	return "HTTPS_PROXY=" + serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
}

// With a hosted cluster, under its real name and over TLS, the Content-Security-Policy lets pusher-js connect by
// WebSocket, and by SockJS if WebSockets are blocked.
func TestHostedCluster(t *testing.T) {
	t.Parallel()
	trust := trustTests(t)
	upstream := pushertest.NewServer(t)
	sockJS := pushertest.SockJS(t, upstream.HTTP.URL)
	webSockets := true
	var hosts sync.Map // that received a request
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
	app := start(t, "PUSHER_URL=http://testkey:testsecret@api-eu.pusher.com/apps/1234", proxyTo(t, address), trust)
	page := pushertest.NewTLSServer(t, forward(t, app.url))
	browser := sync.OnceValues(func() (context.Context, error) {
		return launch(func(a *chromedp.ExecAllocator) {
			light(a)
			chromedp.Flag("host-resolver-rules", "MAP *.pusher.com "+address)(a)
		})
	})
	for _, webSockets = range []bool{true, false} {
		t.Run(fmt.Sprint("WebSockets ", webSockets), func(t *testing.T) {
			p := newTabIn(t, browser, served)
			p.open(page.URL, "connected")
			p.click()
			p.wantAlert()
			want := map[string]bool{"api-eu.pusher.com": true, "ws-eu.pusher.com": true, "sockjs-eu.pusher.com": !webSockets}
			for host, want := range want {
				if _, connected := hosts.Load(host); connected != want {
					t.Errorf("connected to %s: %v, want %v", host, connected, want)
				}
			}
		})
	}
}

// Events reach a Channels server over HTTPS: nginx with HTTP/2 and without, directly and through a proxy, under
// Pusher's host names.
func TestHTTPS(t *testing.T) {
	t.Parallel()
	trust := trustTests(t)
	for major, protocol := range map[int]string{1: "", 2: " http2"} {
		t.Run(fmt.Sprint("HTTP/", major), func(t *testing.T) {
			upstream, address := pushertest.NewServer(t), freeAddress(t)
			startNginx(t, fmt.Sprintf(`server {
				listen %s ssl%s;
				ssl_certificate certificate;
				ssl_certificate_key key;
				location / { proxy_pass %s; }
			}`, address, protocol, upstream.HTTP.URL), address)
			if resp, _ := requestFrom(t, "127.0.0.1", "GET", "https://"+address+"/"); resp.ProtoMajor != major {
				t.Fatalf("nginx responded with %s, want HTTP/%d", resp.Proto, major)
			}
			for _, env := range [][]string{
				{trust, "PUSHER_URL=https://testkey:testsecret@" + address + "/apps/1234"},
				{trust, "PUSHER_URL=https://testkey:testsecret@api-eu.pusher.com/apps/1234", proxyTo(t, address)},
			} {
				before := len(upstream.Events())
				app := start(t, env...)
				app.click()
				app.click()
				if n := len(upstream.Events()) - before; n != 2 {
					t.Errorf("%s: %d events, want 2", env, n)
				}
			}
		})
	}
}

// requestFrom sends a request from a loopback address, with a forged X-Forwarded-For.
func requestFrom(t testing.TB, address, method, url string) (*http.Response, string) {
	t.Helper()
	r := must(http.NewRequest(method, url, nil))
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	client := &http.Client{Timeout: pushertest.Timeout, Transport: &http.Transport{
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
		ForceAttemptHTTP2: true,
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

// nginx works with the README's configuration, with TLS and without: it forwards the page, WebSockets, and the client's
// address and scheme.
func TestReadmeProxy(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the configuration is for Debian; other systems have only one loopback address")
	}
	block := find(t, "(?s)\n```nginx\n(.*?)```", readme(t))[0]
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			app := start(t, "TRUST_PROXY=1", "RATE_LIMIT=0.001") // one click per client
			address, site := freeAddress(t), block
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
				site = regexp.MustCompile(`(ssl_certificate) .*;`).ReplaceAllString(site, "$1 certificate;")
				site = regexp.MustCompile(`(ssl_certificate_key) .*;`).ReplaceAllString(site, "$1 key;")
			}
			startNginx(t, site, address)
			url := scheme + "://" + address
			for _, click := range []struct {
				from string
				want int
			}{{"127.0.0.1", 200}, {"127.0.0.1", 429}, {"127.0.0.2", 200}} {
				if resp, text := requestFrom(t, click.from, "POST", url+"/pusher"); resp.StatusCode != click.want {
					t.Errorf("a click from %s: %d %s, want %d", click.from, resp.StatusCode, text, click.want)
				}
			}
			// Chromium resolves this name to a loopback address.
			p := openPage(t, served, strings.Replace(url, "127.0.0.1", "example.localhost", 1))
			requestFrom(t, "127.0.0.3", "POST", url+"/pusher")
			p.wantAlert()
		})
	}
}

// The page works under a path of a reverse proxy that removes the path.
func TestPathOfProxy(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		app := start(t)
		url := front(t, serve(t, http.NotFoundHandler()), "/demo/", http.StripPrefix("/demo", forward(t, app.url)))
		p := openPage(t, cdn, url+"/demo/?a=/b/")
		p.click()
		p.wantAlert()
		if failed := p.didNotLoad(); failed != "" {
			t.Error(failed)
		}
	})
}

// The page connects to a server at an IPv6 address, which a Content-Security-Policy can't contain.
func TestServerAtIPv6Address(t *testing.T) {
	t.Parallel()
	if listener, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("this machine has no IPv6 loopback address: ", err)
	} else {
		listener.Close()
	}
	server := startCommand(t, command(t, nil, "-addr", "[::1]:0"))
	app := start(t, server.pusherURL())
	wantAlerts(openPage(t, served, app.url), openPage(t, blocked, app.url))
}

// The commands that the program prints work (here with a built program and a free port): trigger, and a second instance
// that shares the events.
func TestSecondTerminal(t *testing.T) {
	t.Parallel()
	first := start(t)
	printed := first.printed(`(?m)^  (PUSHER_URL=\S+) (\S+) (.*)$`, 2)
	event := sampleEvent(t)
	client := socket.Subscribe(t, first.url, "local", event.channel)
	shell := exec.Command("sh", "-c", printed[0][0])
	shell.Env = []string{}
	want := fmt.Sprintf("%s accepted the event %s on the channel %s.\n", first.address(), event.name, event.channel)
	if out, err := run(t, shell); err != nil || out != want {
		t.Fatalf("%s: %v, printed %s, want %s", printed[0][0], err, out, want)
	}
	if m := client.Next(); !strings.Contains(m.Text(), "hello world") {
		t.Errorf("trigger sent %+v", m)
	}
	flag, address, _ := strings.Cut(printed[1][3], " ")
	if flag != "-addr" || !strings.HasPrefix(address, "127.0.0.1:") || address == first.address() {
		t.Errorf("the second instance would listen on %s", printed[1][3])
	}
	second := start(t, printed[1][1]) // not on the printed port, which may be in use
	second.click()
	if m := client.Next(); !strings.Contains(m.Text(), event.message) {
		t.Errorf("a click in the second instance sent %+v", m)
	}
	t.Run("pages", func(t *testing.T) {
		wantAlerts(openPage(t, served, first.url), openPage(t, served, second.url))
	})
}

// Under a process manager, the Procfile starts the program on the given port. The program accepts the variables that
// old add-ons set, and ends on SIGTERM.
func TestProcfile(t *testing.T) {
	path := lookPath(t, foreman, "foreman")
	binary := command(t, nil).Path
	procfile := must(os.ReadFile("../../Procfile"))
	dir := t.TempDir()
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

// While the Channels server restarts, each click gets a response, each "ok" means one event, and each error says
// whether the event was sent, as far as that is known.
func TestUpstreamRestartsDuringClicks(t *testing.T) {
	for name, stop := range map[string]func(*http.Server) error{
		"graceful": func(s *http.Server) error { return s.Shutdown(t.Context()) },
		"abrupt":   (*http.Server).Close,
	} {
		t.Run(name, func(t *testing.T) {
			upstream, app := startWithUpstream(t, "RATE_LIMIT=0")
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
			stop(upstream.HTTP.Config)
			pushertest.WaitFor(t, "a click to fail", func() bool { return got.Count("refused the connection") > 0 })
			listener := must(net.Listen("tcp", upstream.HTTP.Listener.Addr().String()))
			second := &http.Server{Handler: upstream.HTTP.Config.Handler}
			defer second.Close()
			go second.Serve(listener)
			before := got.Count("200 ok")
			close(restarted)
			clicks.Wait()

			ok, unknown := got.Count("200 ok"), got.Count("not known whether the event was sent")
			if got.Count("") != ok+got.Count("502 ")+got.Count("504 ") {
				t.Errorf("some clicks got no response: %v", got.Responses())
			}
			if events := len(upstream.Events()); events < ok || events > ok+unknown || name == "graceful" && events != ok {
				t.Errorf("%d events for these responses: %v", events, got.Responses())
			}
			if ok == before {
				t.Error("no click succeeded after the restart")
			}
		})
	}
}
