// Tests that no event is lost and nothing leaks while clients connect, click, send invalid messages and disconnect. The
// environment variable SOAK sets the duration.
package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
	"pusher-sample/internal/pushertest/socket"

	"github.com/coder/websocket"
)

// A client that stays subscribed receives the event of every click, whatever other clients do. After the others have
// disconnected, the program has no more connections than before.
func TestSoak(t *testing.T) {
	length := must(time.ParseDuration(cmp.Or(os.Getenv("SOAK"), "1s")))
	app := start(t, "RATE_LIMIT=0")
	client := socket.Subscribe(t, app.url, "local", channel)
	filesBefore := app.openFiles()

	ctx, cancel := context.WithTimeout(t.Context(), length+pushertest.Timeout)
	defer cancel()
	end := time.Now().Add(length)
	var working sync.WaitGroup
	var clicks pushertest.Clicks
	var received atomic.Int64
	go func() {
		for range client.Messages {
			received.Add(1)
		}
	}()
	messages := []string{
		fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel),
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
				if random.IntN(2) == 0 {
					conn.Close(websocket.StatusNormalClosure, "")
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
	ok := int64(clicks.Count("200 ok"))
	if ok == 0 || int(ok) != clicks.Count("") {
		t.Errorf("responses to clicks: %v", clicks.Responses())
	}
	pushertest.WaitFor(t, "the events of all clicks", func() bool { return received.Load() >= ok })
	pushertest.WaitFor(t, "connections to be closed", func() bool { return app.openFiles() <= filesBefore })
	if n := received.Load(); n != ok {
		t.Errorf("%d events for %d clicks, want one for each", n, ok)
	}
}

// openFiles returns how many files and connections the program has open, on Linux.
func (p *program) openFiles() int {
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(files)
}
