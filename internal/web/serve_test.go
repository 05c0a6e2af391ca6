package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"
)

// request requests path on c and returns an error unless the response is "ok".
func request(c net.Conn, path string) error {
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if text, _ := io.ReadAll(resp.Body); string(text) != "ok" {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// withServer runs a test with synctest's fake clock and a server that allows 2,000 connections. The
// handler ignores the body at /, reads it at /read, responds after a second at /second, and
// hijacks the connection at /hijack.
func withServer(t *testing.T, test func(t *testing.T, p pipe.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		p := make(pipe.Listener)
		server := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		}), noLog, 2000)
		go server.Serve(p)
		test(t, p)
		server.Close()
	})
}

// A request that arrives at one byte per second times out.
func TestSlowRequests(t *testing.T) {
	const limit = 5 * time.Second
	tests := []struct {
		name, head, trickle string
		want                string // text in the response; "" if there may be none
	}{
		{"headers", "", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 1000), ""},
		{"nothing at all", "", "", ""},
		{"body that is read", "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("x", 1000), "incomplete"},
		{"body that is not read", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("x", 1000), "ok"},
		{"chunks", "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\nx\r\n", 1000), "incomplete"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			withServer(t, func(t *testing.T, p pipe.Listener) {
				start := time.Now()
				c := p.Dial()
				var trickling sync.WaitGroup
				trickling.Go(func() {
					io.WriteString(c, tt.head)
					for i := range len(tt.trickle) {
						if _, err := io.WriteString(c, tt.trickle[i:i+1]); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
				response, _ := io.ReadAll(c)
				if took := time.Since(start); took > limit+time.Second {
					t.Errorf("the connection ended after %v, want %v", took, limit)
				}
				if !strings.Contains(string(response), tt.want) {
					t.Errorf("response %q, want %q", response, tt.want)
				}
				c.Close()
				trickling.Wait()
			})
		})
	}
}

func TestHugeRequests(t *testing.T) {
	huge := strings.Repeat("x", 17<<10)
	tests := []struct {
		name, head string
		status     int
	}{
		{"header", "GET / HTTP/1.1\r\nHost: x\r\nX: " + huge, 431},
		{"many headers", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 3000), 431},
		{"path", "GET /" + huge, 431},
		{"largest accepted headers", "GET / HTTP/1.1\r\nHost: x\r\nCookie: " + huge[:12<<10] + "\r\n\r\n", 200},
		{"body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n", 200},
		{"endless body", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			withServer(t, func(t *testing.T, p pipe.Listener) {
				c := p.Dial()
				sent := make(chan int)
				go func() {
					n, _ := io.WriteString(c, tt.head)
					chunk := bytes.Repeat([]byte("x"), 0x1000)
					if strings.Contains(tt.head, "chunked") {
						chunk = append([]byte("1000\r\n"), append(chunk, "\r\n"...)...)
					}
					for {
						wrote, err := c.Write(chunk)
						if n += wrote; err != nil {
							break
						}
					}
					sent <- n
				}()
				r := bufio.NewReader(c)
				resp, err := http.ReadResponse(r, nil)
				if err != nil || resp.StatusCode != tt.status {
					t.Errorf("response %v %v, want status %d", resp, err, tt.status)
				}
				io.Copy(io.Discard, r) // until the connection ends
				c.Close()
				limit := 1 << 20 // bytes that the server may receive of a body that no handler reads
				if tt.status == 431 {
					limit = 21 << 10
				}
				if n := <-sent; n > limit {
					t.Errorf("the server received %d bytes, want at most %d", n, limit)
				}
			})
		})
	}
}

// A client that does not read its response is dropped.
func TestSlowReader(t *testing.T) {
	withServer(t, func(t *testing.T, p pipe.Listener) {
		c := p.Dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		start := time.Now()
		time.Sleep(21 * time.Second) // longer than WriteTimeout
		synctest.Wait()
		if _, err := io.ReadAll(c); time.Since(start) > 21*time.Second {
			t.Errorf("the connection is still open: %v", err)
		}
		c.Close()
	})
}

// A thousand idle connections use little memory, block no request, and time out.
func TestIdleConnections(t *testing.T) {
	withServer(t, func(t *testing.T, p pipe.Listener) {
		before := heap()
		idle := make([]net.Conn, 1000)
		for i := range idle {
			idle[i] = p.Dial()
			if i%2 == 0 { // half of them have made a request
				if err := request(idle[i], "/"); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		if each := (heap() - before) / len(idle); each > 32<<10 {
			t.Errorf("each connection uses %d bytes, want at most %d", each, 32<<10)
		}
		if err := request(p.Dial(), "/"); err != nil {
			t.Errorf("a request meanwhile: %v", err)
		}
		start := time.Now()
		for i, c := range idle {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(start) > 2*time.Minute {
				t.Fatalf("connection %d: %v after %v", i, err, time.Since(start))
			}
		}
	})
}

// While too many requests are unfinished, a new connection and an idle one with another request wait.
func TestTooManyRequests(t *testing.T) {
	withServer(t, func(t *testing.T, p pipe.Listener) {
		idle := p.Dial()
		if err := request(idle, "/"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start, responses := time.Now(), make(chan error)
		for range 2000 {
			go func() { responses <- request(p.Dial(), "/second") }()
		}
		synctest.Wait()
		waiting := p.Dial()
		for _, c := range []net.Conn{idle, waiting} {
			if err := request(c, "/"); err != nil || time.Since(start) != time.Second {
				t.Errorf("one more: %v after %v", err, time.Since(start))
			}
		}
		for range 2000 {
			if err := <-responses; err != nil {
				t.Error(err)
			}
		}
		if err := request(p.Dial(), "/"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Idle and hijacked connections, such as WebSockets, don't count toward the limit.
func TestConnectionsWithoutRequest(t *testing.T) {
	for _, path := range []string{"/", "/hijack"} {
		withServer(t, func(t *testing.T, p pipe.Listener) {
			start := time.Now()
			for i := range 3000 {
				if err := request(p.Dial(), path); err != nil {
					t.Fatalf("connection %d: %v", i, err)
				}
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("some connections had to wait: all took %v", took)
			}
		})
	}
}

// On shutdown, a request that is being handled gets its response, and connections that have not sent a byte, or are idle,
// are closed at once.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(pipe.Listener)
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error)
		go func() {
			served <- Serve(ctx, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/second" {
					time.Sleep(time.Second)
				}
				io.WriteString(w, "ok")
			}), noLog)
		}()
		unused, idle, busy := p.Dial(), p.Dial(), p.Dial()
		if err := request(idle, "/"); err != nil {
			t.Fatal(err)
		}
		response := make(chan error)
		go func() { response <- request(busy, "/second") }()
		synctest.Wait()
		start := time.Now()
		cancel()
		for _, c := range []net.Conn{unused, idle} {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF || time.Since(start) > 100*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		if err := <-response; err != nil {
			t.Errorf("the request in flight: %v", err)
		}
		if err := <-served; err != nil || time.Since(start) > 2*time.Second {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
	})
}

// A shutdown ends in time, even if all connections have requests in progress and another waits.
func TestShutdownWithTooManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Minute) }), noLog, 2)
		p := make(pipe.Listener)
		go server.Serve(p)
		var clients []net.Conn
		for range 3 {
			c := p.Dial()
			clients = append(clients, c)
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
		for _, c := range clients {
			c.Close()
		}
		time.Sleep(2 * time.Minute)
	})
}

// heap returns how many bytes of the heap are in use after a garbage collection.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
