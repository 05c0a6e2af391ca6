// Tests deployments: the Procfile, several instances, Pusher's hosted clusters, HTTPS, and reverse proxies.
package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/chromedp"
)

// proxyTo starts an HTTP proxy that connects every client to address, whatever host the client requests. It returns the
// variable that makes programs use the proxy.
func proxyTo(t testing.TB, address string) string {
	return "HTTPS_PROXY=" + serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil || r.Method != http.MethodConnect {
			t.Errorf("the proxy got %s %s: %v", r.Method, r.URL, err)
			return
		}
		io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		relay(client, address, new(atomic.Bool))
	}))
}

// With a hosted cluster, under its real name and over TLS, the Content-Security-Policy lets pusher-js connect by
// WebSocket, and try SockJS if WebSockets are blocked.
func TestHostedCluster(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("on some systems, no variable makes a Go program trust the tests' certificate")
	}
	upstream := pushertest.NewServer(t)
	var requested sync.Map // hosts
	cluster := pushertest.NewTLSServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requested.Store(r.Host, true)
		upstream.HTTP.Config.Handler.ServeHTTP(w, r)
	}))
	address := cluster.Listener.Addr().String()
	app := start(t, "PUSHER_URL=http://testkey:testsecret@api-eu.pusher.com/apps/1234", proxyTo(t, address),
		"SSL_CERT_FILE="+certificateFile(t))
	browser := func() (context.Context, error) {
		return launch(func(a *chromedp.ExecAllocator) {
			light(a)
			chromedp.Flag("host-resolver-rules", "MAP *.pusher.com "+address)(a)
		})
	}
	p := newTabIn(t, browser, served).open(pushertest.NewTLSServer(t, forward(t, app.url)).URL, "connected")
	p.click()
	p.wantAlert()
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Blocked by a proxy.", http.StatusForbidden)
	})
	p.js("location.reload()")
	for _, host := range []string{"api-eu.pusher.com", "ws-eu.pusher.com", "sockjs-eu.pusher.com"} {
		pushertest.WaitFor(t, "a request to "+host, func() bool { _, ok := requested.Load(host); return ok })
	}
	p.wanted = 0
}

// nginx works with the README's configuration, with TLS and without: it forwards the page, WebSockets, and the client's
// address and scheme. With HTTP/2, it also forwards another instance's events.
func TestReadmeProxy(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the configuration is for Debian; other systems have only one loopback address")
	}
	block := find(t, "(?s)\n```nginx\n(.*?)```", readme)[0]
	file := certificateFile(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			app := start(t, "TRUST_PROXY=1", "RATE_LIMIT=0.001") // one click per client
			listener := must(net.Listen("tcp", "127.0.0.1:0"))
			address := listener.Addr().String()
			listener.Close()
			plain, secure := "", "listen "+address+" ssl http2;"
			if scheme == "http" { // without the three lines, as the README says
				plain, secure = "listen "+address+";", ""
			}
			site := strings.NewReplacer("listen 80;", plain, "listen 443 ssl;", secure, "http://127.0.0.1:5000;", app.url+";",
				"/etc/ssl/certs/example.org.pem", file, "/etc/ssl/private/example.org.key", file).Replace(block)
			startNginx(t, site)
			url := scheme + "://" + address
			click := func(from string) *http.Response {
				client := &http.Client{Timeout: pushertest.Timeout, Transport: &http.Transport{
					DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext,
					TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
					ForceAttemptHTTP2: true,
				}}
				defer client.CloseIdleConnections()
				resp, err := client.Post(url+"/pusher", "", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				return resp
			}
			for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
				first, second := click(from), click(from)
				if first.StatusCode != 200 || second.StatusCode != 429 || (first.ProtoMajor == 2) != (scheme == "https") {
					t.Errorf("clicks from %s: %s, %s; %s", from, first.Status, second.Status, first.Proto)
				}
			}
			// Chromium resolves this name to a loopback address.
			p := openPage(t, served, strings.Replace(url, "127.0.0.1", "example.localhost", 1))
			other := strings.Replace(strings.Replace(app.pusherURL(), app.address(), address, 1), "http", scheme, 1)
			start(t, other, "SSL_CERT_FILE="+file).click()
			p.wantAlert()
		})
	}
}

// The page works under a path of a reverse proxy that removes the path. It shows the proxy's own errors as they are.
func TestPathOfProxy(t *testing.T) {
	eachClient(t, func(t *testing.T, cdn cdn) {
		mux := http.NewServeMux()
		mux.Handle("/demo/", http.StripPrefix("/demo", forward(t, start(t).url)))
		p := openPage(t, cdn, serve(t, mux)+"/demo/?a=/b/")
		p.click()
		p.wantAlert()
		p.js("document.querySelector('.push').dataset.post = '/elsewhere'")
		p.click()
		p.awaitText("problem", "404 page not found")
	})
}

// The commands that the program prints work (here with a built program and a free port): trigger, and a second instance
// that shares the events. The first instance has an IPv6 address, which a Content-Security-Policy can't contain.
func TestSecondTerminal(t *testing.T) {
	t.Parallel()
	address := "[::1]:0"
	if listener, err := net.Listen("tcp", address); err != nil { // a machine without IPv6
		address = "127.0.0.1:0"
	} else {
		listener.Close()
	}
	first := startCommand(t, command(t, nil, "-addr", address))
	printed := first.printed(`(?m)^  (PUSHER_URL=\S+) (\S+) (.*)$`, 2)
	one, two := openPage(t, served, first.url), openPage(t, blocked, first.url)
	shell := exec.Command("sh", "-c", printed[0][0]+` '{"message":"`+message+`"}'`)
	shell.Env = []string{}
	want := fmt.Sprintf("%s accepted the event %s on the channel %s.\n", first.address(), event, channel)
	if out, err := run(t, shell); err != nil || out != want {
		t.Fatalf("%s: %v, printed %s, want %s", printed[0][0], err, out, want)
	}
	one.wantAlert()
	two.wantAlert()
	second := start(t, printed[1][1]) // not on the printed port, which may be in use
	wantAlerts(one, two, openPage(t, served, second.url), openPage(t, blocked, second.url))
}

// Under a process manager, the Procfile starts the program on the given port. The program accepts the variables that
// old add-ons set, and ends on SIGTERM.
func TestProcfile(t *testing.T) {
	path := lookPath(t, "foreman (Debian package ruby-foreman)", "foreman")
	root := filepath.Dir(filepath.Dir(command(t, nil).Path)) // the program is bin/pusher-sample
	cmd := exec.Command(path, "start", "-f", must(filepath.Abs("../../Procfile")), "-d", root, "-p", "0")
	cmd.Env = append(os.Environ(), "DYNO=web.1", "PUSHER_CLUSTER=", "RATE_LIMIT=", "TRUST_PROXY=",
		"PUSHER_URL=http://testkey:testsecret@api.pusherapp.com/apps/1",
		"PUSHER_SOCKET_URL=ws://ws.pusherapp.com:80/app/testkey")
	app := startCommand(t, cmd)
	_, page := pushertest.Request(t, "GET", app.url, "X-Forwarded-Proto", "https", "X-Forwarded-For", "192.0.2.1")
	if want := `data-key="testkey" data-cluster="mt1" data-socket="wss://ws-mt1.`; !strings.Contains(page, want) {
		t.Error(page)
	}
	app.stop() // ignore foreman's exit code, which is not the app's
	if log := app.logged(); !strings.Contains(log, "exited with code 0") {
		t.Errorf("the log: %s", log)
	}
}
