// Tests that SIGTERM shuts the program down gracefully: in-flight clicks get a response, and
// pages are asked to reconnect.
package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
)

// On SIGTERM, the program asks clients to reconnect immediately, and exits with status 0.
func TestStopAsksClientsToReconnect(t *testing.T) {
	p := start(t)
	client, err := pushertest.Dial(p.url, "local")
	if err != nil {
		t.Fatal(err)
	}
	client.Next(t) // receives connection_established
	if err := p.stop(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	if code := <-client.Closed; code != 4200 {
		t.Errorf("the connection was closed with %d, want 4200", code)
	}
}

// On SIGTERM during 300 clicks, each click gets "ok", an error, or a refused connection, and
// each "ok" means that one event was sent.
func TestStopDuringClicks(t *testing.T) {
	upstream := pushertest.NewServer(t)
	release := make(chan bool)
	releaseAll := sync.OnceFunc(func() { close(release) })
	defer releaseAll() // because the server waits for its requests
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		if len(upstream.Events()) >= 50 {
			<-release
		}
		upstream.ServeHTTP(w, r)
	})
	p := start(t, "PUSHER_URL="+upstream.PusherURL, "RATE_LIMIT=0")
	var clicks sync.WaitGroup
	var got pushertest.Clicks
	for range 300 {
		clicks.Go(func() { got.Click(p.url) })
	}
	pushertest.WaitFor(t, "some clicks", func() bool { return got.Count("200 ok") >= 50 })
	p.signal(syscall.SIGTERM)
	p.waitClosed()
	releaseAll()
	clicks.Wait()
	if err := p.wait(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	ok := got.Count("200 ok")
	if events := len(upstream.Events()); events != ok || ok+got.Count("503 ")+got.Count("none") != 300 {
		t.Errorf("%d events for these responses: %v", events, got.Responses())
	}
}

// A click in flight at SIGTERM still gets its response, while new connections are refused. A
// second signal ends the program immediately.
func TestStopFinishesInFlightClicks(t *testing.T) {
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprint("second signal ", twice), func(t *testing.T) {
			upstream := pushertest.NewServer(t)
			arrived, release := make(chan bool), make(chan bool)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				arrived <- true
				<-release
				io.WriteString(w, "{}")
			})
			releaseAll := sync.OnceFunc(func() { close(release) })
			defer releaseAll()
			p := start(t, "PUSHER_URL="+upstream.PusherURL)
			response := make(chan string, 1)
			go func() {
				resp, err := http.Post(p.url+"/pusher", "", nil)
				if err != nil {
					response <- err.Error()
					return
				}
				defer resp.Body.Close()
				text, _ := io.ReadAll(resp.Body)
				response <- string(text)
			}()
			<-arrived
			p.signal(syscall.SIGTERM)
			p.waitClosed()
			if twice {
				if err := p.stop(); err == nil {
					t.Error("the program exited with 0 though a click was in flight")
				}
				return
			}
			releaseAll()
			if got := <-response; got != "ok" {
				t.Errorf("the click in flight got %q, want ok", got)
			}
			if err := p.wait(); err != nil {
				t.Errorf("the program ended with %v", err)
			}
		})
	}
}

// Connections that never sent a byte, such as those that browsers open in advance, don't delay
// the program's exit. A click in flight still gets its response.
func TestStopClosesUnusedConnections(t *testing.T) {
	upstream := pushertest.NewServer(t)
	arrived, release := make(chan bool), make(chan bool)
	upstream.Override(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-release
		upstream.ServeHTTP(w, r)
	})
	releaseAll := sync.OnceFunc(func() { close(release) })
	defer releaseAll()
	p := start(t, "PUSHER_URL="+upstream.PusherURL)
	for range 3 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	var click sync.WaitGroup
	var got pushertest.Clicks
	click.Go(func() { got.Click(p.url) })
	<-arrived
	p.signal(syscall.SIGTERM)
	p.waitClosed()
	begin := time.Now()
	releaseAll()
	click.Wait()
	if err := p.wait(); err != nil || got.Count("200 ok") != 1 {
		t.Errorf("the program ended with %v, the click with %v", err, got.Responses())
	}
	if took := time.Since(begin); took > 4*time.Second { // net/http alone waits 5 s
		t.Errorf("the program ended %v after the last response, want at most 4 s", took)
	}
}

// The program ends even if its log blocks because nobody reads it.
func TestStopWithBlockedLog(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes 9 s")
	}
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "PORT=0"}
	pipe := filepath.Join(cmd.Dir, "log")
	if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Skipf("mkfifo: %v %s", err, out)
	}
	// filler is opened separately, because deadlines only work on files that no process inherits.
	reader, err1 := os.OpenFile(pipe, os.O_RDWR, 0)
	stderr, err2 := os.OpenFile(pipe, os.O_WRONLY, 0)
	filler, err3 := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	defer reader.Close() // closing it earlier would send the program SIGPIPE
	defer stderr.Close()
	defer filler.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || !readyLine.MatchString(line) {
		t.Fatalf("the log begins with %q, %v", line, err)
	}
	for _, size := range []int{1024, 1} { // fill the pipe up to the last byte
		for err = nil; err == nil; _, err = filler.Write(make([]byte, size)) {
			filler.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("the program ended with %v: the log did not block it", err)
		}
	case <-time.After(pushertest.Timeout):
		t.Fatal("timed out waiting for the program to end")
	}
}
