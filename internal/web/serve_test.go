package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"
)

// request requests path on c and returns an error unless the response is "ok".
func request(c net.Conn, path string, header ...string) error {
	go io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n"+strings.Join(header, "")+"\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if text, _ := io.ReadAll(resp.Body); string(text) != "ok" {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// handler reads the body at /read, responds after a second at /second, and hijacks the connection at /hijack.
var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/read":
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, "incomplete", http.StatusBadRequest)
			return
		}
	case "/second":
		time.Sleep(time.Second)
	case "/hijack":
		c, _, _ := http.NewResponseController(w).Hijack()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return
	}
	io.WriteString(w, "ok")
})

// serving runs a test with synctest's fake clock and Serve. stop stops Serve and returns its error.
func serving(t *testing.T, test func(t *testing.T, p pipe.Listener, stop func() error)) {
	synctest.Test(t, func(t *testing.T) {
		p := make(pipe.Listener)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- Serve(ctx, p, handler, noLog) }()
		test(t, p, func() error {
			cancel()
			return <-served
		})
		cancel()
		time.Sleep(3 * time.Minute) // until all connections have timed out
	})
}

// A request that arrives at one byte per second times out.
func TestSlowRequests(t *testing.T) {
	for name, tt := range map[string]struct{ head, trickle, want string }{
		"headers":        {"", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 1000), ""},
		"nothing at all": {},
		"body":           {"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("x", 1000), "incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
				start, c := time.Now(), p.Dial()
				go func() {
					io.WriteString(c, tt.head)
					for i := range len(tt.trickle) {
						if _, err := io.WriteString(c, tt.trickle[i:i+1]); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				}()
				response, _ := io.ReadAll(c)
				if took := time.Since(start); took > 6*time.Second || !strings.Contains(string(response), tt.want) {
					t.Errorf("response %q after %v, want %q within 6 s", response, took, tt.want)
				}
				c.Close()
			})
		})
	}
}

// Headers of 12 KB are accepted, such as large cookies, and larger ones than 16 KB are not.
func TestHeaderSize(t *testing.T) {
	for size, want := range map[int]string{12: "<nil>", 17: "status 431"} {
		serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
			c := p.Dial()
			if err := request(c, "/", "Cookie: "+strings.Repeat("x", size<<10)+"\r\n"); fmt.Sprint(err) != want {
				t.Errorf("%d KB: %v, want %s", size, err, want)
			}
			c.Close()
		})
	}
}

// While all connections have requests, a new one waits.
func TestTooManyRequests(t *testing.T) {
	serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
		start, responses := time.Now(), make(chan error)
		for range maxConnections {
			go func() { responses <- request(p.Dial(), "/second") }()
		}
		synctest.Wait()
		if err := request(p.Dial(), "/"); err != nil || time.Since(start) != time.Second {
			t.Errorf("one more: %v after %v", err, time.Since(start))
		}
		for range maxConnections {
			if err := <-responses; err != nil {
				t.Error(err)
			}
		}
	})
}

// Idle connections make room for others, and hijacked ones, such as WebSockets, don't count.
func TestConnectionsWithoutRequest(t *testing.T) {
	for _, path := range []string{"/", "/hijack"} {
		serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
			start := time.Now()
			for i := range maxConnections + 10 {
				if err := request(p.Dial(), path); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
				synctest.Wait()
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("some connections had to wait: all took %v", took)
			}
		})
	}
}

// A second request on a connection counts as well before it is complete.
func TestUnfinishedSecondRequests(t *testing.T) {
	serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
		var closed atomic.Int32
		for range maxConnections + 10 {
			c := p.Dial()
			if err := request(c, "/"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX: y\r\n"); err != nil {
				t.Fatal(err)
			}
			go func() {
				io.Copy(io.Discard, c)
				closed.Add(1)
			}()
		}
		synctest.Wait()
		if n := closed.Load(); n < 10 {
			t.Errorf("only %d connections were closed", n)
		}
	})
}

// On shutdown, a request that is being handled gets its response. Connections that have not sent a byte, or are idle,
// are closed at once.
func TestShutdown(t *testing.T) {
	serving(t, func(t *testing.T, p pipe.Listener, stop func() error) {
		unused, idle, busy := p.Dial(), p.Dial(), p.Dial()
		if err := request(idle, "/"); err != nil {
			t.Fatal(err)
		}
		response := make(chan error, 1)
		go func() { response <- request(busy, "/second") }()
		synctest.Wait()
		start := time.Now()
		for _, c := range []net.Conn{unused, idle} {
			go func() {
				if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(start) > 100*time.Millisecond {
					t.Errorf("%v after %v", err, time.Since(start))
				}
			}()
		}
		if err := stop(); err != nil || time.Since(start) > 2*time.Second {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
		if err := <-response; err != nil {
			t.Errorf("the request in flight: %v", err)
		}
	})
}

// A shutdown ends within 6 s, even if all connections have requests in progress and another waits.
func TestShutdownWithTooManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Minute) })
		server := newServer(slow, noLog, 2)
		p := make(pipe.Listener)
		go server.Serve(p)
		for range 3 {
			c := p.Dial()
			defer c.Close()
			go io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		start := time.Now()
		if err := server.Shutdown(ctx); err == nil || time.Since(start) != 6*time.Second {
			t.Errorf("Shutdown: %v after %v, want an error after 6 s", err, time.Since(start))
		}
		server.Close()
		time.Sleep(2 * time.Minute)
	})
}
