// Tests that SIGTERM shuts the program down gracefully. TestCloseCodesInChromium tests what pages receive.
package e2e

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"pusher-sample/internal/pushertest"
)

// At SIGTERM, the program refuses new connections. Clicks in flight still get their responses, and each "ok" means that
// one event was sent. A second signal ends the program immediately.
func TestStopFinishesInFlightClicks(t *testing.T) {
	const total, early = 300, 50 // clicks; the early ones have their responses before SIGTERM
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprint("second signal ", twice), func(t *testing.T) {
			upstream, p := startWithUpstream(t, "RATE_LIMIT=0")
			var arrived atomic.Int32
			release := make(chan bool)
			upstream.Override(func(w http.ResponseWriter, r *http.Request) {
				if arrived.Add(1) > early {
					<-release
				}
				upstream.ServeHTTP(w, r)
			})
			var clicks sync.WaitGroup
			var got pushertest.Clicks
			for range total {
				clicks.Go(func() { got.Click(p.url) })
			}
			pushertest.WaitFor(t, "clicks in flight", func() bool {
				return arrived.Load() > early && got.Count("200 ok") == early
			})
			p.signal(syscall.SIGTERM)
			pushertest.WaitFor(t, "new connections to be refused", func() bool {
				conn, err := net.Dial("tcp", p.address())
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			if twice { // the program may need a moment to stop handling signals
				pushertest.WaitFor(t, "the end", func() bool { return p.cmd.Process.Signal(syscall.SIGTERM) != nil })
			}
			close(release)
			clicks.Wait()
			if err := p.wait(); (err != nil) != twice {
				t.Errorf("the program ended with %v", err)
			}
			ok, events := got.Count("200 ok"), len(upstream.Events())
			if !twice && events != ok || got.Count("") != ok+got.Count("504 ")+got.Count("none") {
				t.Errorf("%d events for these responses: %v", events, got.Responses())
			}
		})
	}
}
