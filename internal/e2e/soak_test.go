// Tests that no event is lost and nothing leaks while clients connect, click, send invalid messages and disconnect. The
// environment variable SOAK sets the duration.
package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/socket"

	"github.com/coder/websocket"
)

// A client that stays subscribed receives the event of every click, whatever other clients do. After the others have
// disconnected, the program uses no more files, goroutines or memory than before.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(cmp.Or(os.Getenv("SOAK"), "1s"))
	if err != nil {
		t.Fatal(err)
	}
	app := start(t, "RATE_LIMIT=0", "GODEBUG=gctrace=1")
	received := countEvents(t, app)
	filesBefore, heapBefore := app.openFiles(), app.heap()

	ctx, cancel := context.WithTimeout(t.Context(), length+pushertest.Timeout)
	defer cancel()
	end := time.Now().Add(length)
	var working sync.WaitGroup
	var clicks pushertest.Clicks
	var connections atomic.Int64
	messages := []string{
		fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, sampleEvent(t).channel),
		"", "{", "[]", `{"event":1}`, `{"event":"pusher:subscribe","data":{"channel":"a b"}}`,
		`{"event":"client-x","channel":"a","data":{}}`, strings.Repeat("x", 50_000),
	}
	for i := range 200 {
		working.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for time.Now().Before(end) {
				conn, _, err := websocket.Dial(ctx, app.socketURL(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				connections.Add(1)
				go func() {
					for err == nil {
						_, _, err = conn.Read(ctx)
					}
				}()
				conn.Write(ctx, websocket.MessageText, []byte(messages[0]))
				for range random.IntN(20) {
					conn.Write(ctx, websocket.MessageText, []byte(messages[random.IntN(len(messages))]))
					time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				}
				switch random.IntN(3) { // ways to disconnect
				case 0:
					conn.Close(websocket.StatusNormalClosure, "")
				case 1:
					conn.Write(ctx, websocket.MessageBinary, []byte("x"))
				}
				conn.CloseNow()
			}
		})
	}
	for range 4 {
		working.Go(func() {
			for time.Now().Before(end) {
				clicks.Click(app.url)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	working.Wait()
	ok := clicks.Count("200 ok")
	if ok == 0 || ok != clicks.Count("") {
		t.Errorf("responses to clicks: %v", clicks.Responses())
	}
	pushertest.WaitFor(t, "the events of all clicks", func() bool { return received.Load() >= int64(ok) })
	pushertest.WaitFor(t, "connections to be closed", func() bool { return app.openFiles() <= filesBefore })
	heap := 0
	pushertest.WaitFor(t, "memory to be freed", func() bool { heap = app.heap(); return heap <= heapBefore+2 })
	t.Logf("%v: %d connections, %d clicks; %d MB before, %d MB after", length, connections.Load(), ok, heapBefore, heap)
	if n := received.Load(); n != int64(ok) {
		t.Errorf("%d events for %d clicks, want one for each", n, ok)
	}
	if runtime.GOOS != "linux" {
		return // openFiles can't wait for the connections to end
	}
	idle := start(t, "RATE_LIMIT=0", "GODEBUG=gctrace=1")
	countEvents(t, idle)
	if want, got := idle.goroutines(), app.goroutines(); got > want {
		t.Errorf("%d goroutines, but %d in a newly started program:\n%s", got, want, app.logged())
	}
}

// countEvents subscribes a client and counts the clicks' events that it receives.
func countEvents(t testing.TB, app *program) *atomic.Int64 {
	t.Helper()
	want := sampleEvent(t)
	client := socket.Subscribe(t, app.url, "local", want.channel)
	received := new(atomic.Int64)
	go func() {
		for m := range client.Messages {
			if m.Event == want.name {
				received.Add(1)
			} else if m.Event != "pusher:ping" {
				t.Errorf("received %+v", m)
			}
		}
	}()
	return received
}

// openFiles returns how many files and connections the program has open, on Linux.
func (p *program) openFiles() int {
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(files)
}

var gcLine = regexp.MustCompile(`(?m)^gc .*->(\d+) MB, `)

// heap waits for a garbage collection and returns how many MB are in use after it. The program must run with
// GODEBUG=gctrace=1.
func (p *program) heap() int {
	p.t.Helper()
	var collections [][]string
	before := len(gcLine.FindAllString(p.logged(), -1))
	pushertest.WaitFor(p.t, "a garbage collection", func() bool {
		for range 100 { // each request allocates a little
			pushertest.Request(p.t, "GET", p.url, "Connection", "close")
		}
		collections = gcLine.FindAllStringSubmatch(p.logged(), -1)
		return len(collections) > before
	})
	mb, _ := strconv.Atoi(collections[len(collections)-1][1])
	return mb
}

// goroutines ends the program with SIGQUIT and returns how many goroutines it had, without the runtime's own. The log
// then contains their stacks.
func (p *program) goroutines() int {
	p.t.Helper()
	p.signal(syscall.SIGQUIT)
	p.wait()
	log := p.logged()
	return strings.Count(log, "\ncreated by ") - strings.Count(log, "\ncreated by runtime.")
}
