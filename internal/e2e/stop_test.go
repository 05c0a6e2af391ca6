// Tests that SIGTERM shuts the program down gracefully: in-flight clicks get a response. TestCloseCodesInChromium
// and TestPageReconnectsAfterRestart test that pages are asked to reconnect.
package e2e

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
)

// At SIGTERM, the program refuses new connections. Clicks in flight still get their responses, and each "ok" means that
// one event was sent. Connections that never sent a byte, such as those that browsers open in advance, don't delay the
// exit. A second signal ends the program immediately.
func TestStopFinishesInFlightClicks(t *testing.T) {
	for _, tt := range []struct {
		clicks int
		twice  bool
	}{{1, false}, {1, true}, {300, false}} {
		t.Run(fmt.Sprintf("%d clicks, second signal %v", tt.clicks, tt.twice), func(t *testing.T) {
			upstream, p := startWithUpstream(t, "RATE_LIMIT=0")
			var arrived atomic.Int32
			release := make(chan bool)
			releaseAll := sync.OnceFunc(func() { close(release) })
			defer releaseAll()
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				if int(arrived.Add(1)) > tt.clicks/6 { // the last clicks are still in flight at SIGTERM
					<-release
				}
				upstream.ServeHTTP(w, r)
			})
			for range 3 {
				unused, err := net.Dial("tcp", p.address())
				if err != nil {
					t.Fatal(err)
				}
				defer unused.Close()
			}
			var clicks sync.WaitGroup
			var got pushertest.Clicks
			for range tt.clicks {
				clicks.Go(func() { got.Click(p.url) })
			}
			pushertest.WaitFor(t, "a click in flight", func() bool {
				return int(arrived.Load()) > tt.clicks/6 && got.Count("200 ok") == tt.clicks/6
			})
			p.signal(syscall.SIGTERM)
			pushertest.WaitFor(t, "new connections to be refused", func() bool { return !accepts(p.address()) })
			began := time.Now()
			if tt.twice {
				if err := p.stop(); err == nil {
					t.Error("the program exited with 0 though a click was in flight")
				}
				return
			}
			releaseAll()
			clicks.Wait()
			if err := p.wait(); err != nil {
				t.Errorf("the program ended with %v", err)
			}
			if took := time.Since(began); tt.clicks == 1 && took > 4*time.Second { // net/http alone waits 5 s
				t.Errorf("the program ended %v after the last response, want at most 4 s", took)
			}
			ok := got.Count("200 ok")
			if events := len(upstream.Events()); events != ok || ok == 0 || ok+got.Count("504 ")+got.Count("none") != tt.clicks {
				t.Errorf("%d events for these responses: %v", events, got.Responses())
			}
		})
	}
}
