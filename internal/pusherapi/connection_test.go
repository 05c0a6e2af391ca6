// Tests what happens to events when the server closes connections. Bytes take time to arrive, by synctest's fake clock,
// so a request and the server's close can cross in transit.
package pusherapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"

	"github.com/pusher/pusher-http-go/v5"
)

const latency = 20 * time.Millisecond // one way

// serve runs a server in memory, which closes idle connections after idle, and returns a client for it. Bytes arrive
// after delay, and so does the end of a connection.
func serve(t *testing.T, idle, delay time.Duration, handler http.HandlerFunc) *pusher.Client {
	var links sync.WaitGroup
	t.Cleanup(links.Wait)
	server, listener := &http.Server{IdleTimeout: idle, Handler: handler}, make(pipe.Listener)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	transport := newTransport()
	transport.MaxConnsPerHost = 1
	t.Cleanup(transport.CloseIdleConnections)
	return newClient("http://x", withDial(transport, func(context.Context, string, string) (net.Conn, error) {
		client, near := net.Pipe()
		far := listener.Dial()
		links.Go(func() { forward(near, far, delay) })
		links.Go(func() { forward(far, near, delay) })
		return client, nil
	}))
}

// forward forwards bytes, and the end of the stream, from src to dst after delay.
func forward(src, dst net.Conn, delay time.Duration) {
	defer dst.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := src.Read(buffer)
		time.Sleep(delay)
		if err == nil {
			_, err = dst.Write(buffer[:n])
		}
		if err != nil {
			return
		}
	}
}

// accept returns a handler that accepts and counts events.
func accept(events *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		events.Add(1)
		io.WriteString(w, "{}")
	}
}

// A click never uses a connection that the server is closing, if the server keeps idle connections for a minute or
// longer, as nginx and load balancers do.
func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events atomic.Int32
		client := serve(t, time.Minute, latency, accept(&events))
		const clicks = 60
		for n := range clicks {
			if err := client.Trigger("c", "e", "d"); err != nil {
				t.Errorf("click %d: %v", n, err)
			}
			time.Sleep(time.Minute - clicks*time.Millisecond + time.Duration(n)*time.Millisecond)
		}
		if n := events.Load(); n != clicks {
			t.Errorf("%d events for %d clicks, want one for each", n, clicks)
		}
	})
}

// A click that is sent while the server closes the connection gets an error that says so, and is not retried.
func TestClickCrossesClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events atomic.Int32
		client := serve(t, time.Second, latency, accept(&events))
		if err := client.Trigger("c", "e", "d"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second - latency/2)
		wantExplained(t, client.Trigger("c", "e", "d"), 502, "was lost, so it is not known whether the event was sent")
		if err := client.Trigger("c", "e", "d"); err != nil {
			t.Error(err)
		}
		if n := events.Load(); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
	})
}

// If a connection breaks while the server handles a request, the error says that it is not known whether the event was
// sent. The request is not retried.
func TestConnectionBreaks(t *testing.T) {
	for _, tt := range []struct {
		name     string
		earlier  int32 // number of earlier requests over the same connection
		response string
	}{
		{"without a response, on a new connection", 0, ""},
		{"within the response, on a new connection", 0, "HTTP/1.1 200 OK\r\nContent-Le"},
		{"within the response, on an idle connection", 1, "HTTP/1.1 200 OK\r\nContent-Le"},
		{"within the body, on an idle connection", 1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var events atomic.Int32
				client := serve(t, 0, latency, func(w http.ResponseWriter, r *http.Request) {
					if events.Load() < tt.earlier {
						accept(&events)(w, r)
						return
					}
					events.Add(1)
					conn, _, _ := http.NewResponseController(w).Hijack()
					io.WriteString(conn, tt.response)
					conn.Close()
				})
				for range tt.earlier {
					if err := client.Trigger("c", "e", "d"); err != nil {
						t.Fatal(err)
					}
				}
				wantExplained(t, client.Trigger("c", "e", "d"), 502, "was lost, so it is not known whether the event was sent")
				if n := events.Load(); n != tt.earlier+1 {
					t.Errorf("%d requests, want %d", n, tt.earlier+1)
				}
			})
		})
	}
}
