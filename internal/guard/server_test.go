package guard

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

// get requests path on c and returns an error unless the response is "ok".
func get(c net.Conn, path string) error {
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

// serve runs a test with synctest's fake clock and a server that allows 2,000 connections. The
// handler ignores the body at /, reads it at /read, responds after a second at /second, and
// hijacks the connection at /hijack.
func serve(t *testing.T, test func(t *testing.T, p pipe.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		p := make(pipe.Listener)
		server := newServer(noLog, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		}), 2000)
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
			serve(t, func(t *testing.T, p pipe.Listener) {
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
	huge := strings.Repeat("x", 9<<10)
	tests := []struct {
		name, head string
		status     int
	}{
		{"header", "GET / HTTP/1.1\r\nHost: x\r\nX: " + huge, 431},
		{"many headers", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 1500), 431},
		{"path", "GET /" + huge, 431},
		{"largest accepted headers", "GET / HTTP/1.1\r\nHost: x\r\nCookie: " + huge[:8000] + "\r\n\r\n", 200},
		{"body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n", 200},
		{"endless body", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			serve(t, func(t *testing.T, p pipe.Listener) {
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
					limit = 12 << 10
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
	serve(t, func(t *testing.T, p pipe.Listener) {
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
	serve(t, func(t *testing.T, p pipe.Listener) {
		before := heap()
		idle := make([]net.Conn, 1000)
		for i := range idle {
			idle[i] = p.Dial()
			if i%2 == 0 { // half of them have made a request
				if err := get(idle[i], "/"); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		if each := (heap() - before) / len(idle); each > 32<<10 {
			t.Errorf("each connection uses %d bytes, want at most %d", each, 32<<10)
		}
		if err := get(p.Dial(), "/"); err != nil {
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

// Excess connections replace those that have been idle the longest.
func TestTooManyIdleConnections(t *testing.T) {
	serve(t, func(t *testing.T, p pipe.Listener) {
		start, conns := time.Now(), make([]net.Conn, 3000)
		for i := range conns {
			conns[i] = p.Dial()
			if err := get(conns[i], "/"); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			synctest.Wait()
		}
		for i, c := range conns {
			if err := get(c, "/"); (err == nil) != (i >= 1000) {
				t.Fatalf("connection %d again: %v", i, err)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("some connections had to wait: all took %v", took)
		}
	})
}

// Slow requests, however many, block no other client: the server closes the oldest ones.
func TestTooManySlowConnections(t *testing.T) {
	serve(t, func(t *testing.T, p pipe.Listener) {
		start := time.Now()
		var slow sync.WaitGroup
		for range 5000 {
			c := p.Dial()
			slow.Go(func() {
				io.WriteString(c, "GET / HTTP/1.1\r\n")
				io.ReadAll(c)
			})
		}
		if err := get(p.Dial(), "/"); err != nil || time.Since(start) > 0 {
			t.Errorf("a request meanwhile: %v after %v", err, time.Since(start))
		}
		synctest.Wait()
		slow.Wait()
	})
}

// The server doesn't close a connection whose request is being handled. A new one waits instead.
func TestTooManyRequests(t *testing.T) {
	serve(t, func(t *testing.T, p pipe.Listener) {
		start, responses := time.Now(), make(chan error)
		for range 2000 {
			go func() { responses <- get(p.Dial(), "/second") }()
		}
		synctest.Wait()
		if err := get(p.Dial(), "/"); err != nil || time.Since(start) != time.Second {
			t.Errorf("one more: %v after %v", err, time.Since(start))
		}
		for range 2000 {
			if err := <-responses; err != nil {
				t.Error(err)
			}
		}
		c := p.Dial()
		for range 2 {
			if err := get(c, "/"); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		}
	})
}

// A shutdown ends in time, even if all connections have requests in progress and another waits.
func TestShutdownWithTooManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(noLog, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Minute) }), 2)
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

// Hijacked connections, such as WebSockets, don't count toward the limit.
func TestHijackedConnections(t *testing.T) {
	serve(t, func(t *testing.T, p pipe.Listener) {
		for i := range 3000 {
			if err := get(p.Dial(), "/hijack"); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
	})
}

// heap returns how many bytes of the heap are in use after a garbage collection.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
