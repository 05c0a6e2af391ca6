// Tests that SIGTERM shuts the program down gracefully: in-flight clicks get a response, and
// pages are asked to reconnect.
package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
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
	if events := len(upstream.Events()); events != ok || ok+got.Count("504 ")+got.Count("none") != 300 {
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
