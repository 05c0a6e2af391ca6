package web

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pusher-sample/internal/pushertest/pipe"
)

// request requests path on c and returns an error unless the response is "ok".
func request(c net.Conn, path string) error {
	go io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if text, _ := io.ReadAll(resp.Body); string(text) != "ok" {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// handler hijacks the connection at /hijack. Otherwise, it reads the body, and waits for the time in the path, such as
// /1s, before it responds.
var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hijack" {
		c, _, _ := http.NewResponseController(w).Hijack()
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, "incomplete", http.StatusBadRequest)
		return
	}
	delay, _ := time.ParseDuration(r.URL.Path[1:])
	time.Sleep(delay)
	io.WriteString(w, "ok")
})

// serving runs a test with synctest's fake clock and Serve. stop stops Serve and returns its error.
func serving(t *testing.T, test func(t *testing.T, p pipe.Listener, stop func() error)) {
	t.Helper()
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

func TestListen(t *testing.T) {
	first, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	taken := first.Addr().String()
	for addr, want := range map[string]string{
		taken:  taken + " is already in use by another program: stop it, or choose another address with -addr " + NextAddr(taken),
		"5001": "can't listen on 5001 (listen tcp: address 5001: missing port in address): set -addr to HOST:PORT",
	} {
		if _, err := Listen(addr); !strings.HasPrefix(fmt.Sprint(err), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	for addr, want := range map[string]string{"[::1]:5001": "[::1]:5002", ":65535": ":1", "127.0.0.1:http": "127.0.0.1:81"} {
		if got := NextAddr(addr); got != want {
			t.Errorf("the address after %s: got %s, want %s", addr, got, want)
		}
	}
}

// A request that arrives at one byte per second times out. Headers of 12 KB, such as large cookies, are accepted;
// headers over 16 KB are not.
func TestLimitsOfRequests(t *testing.T) {
	for _, tt := range []struct{ start, slow, want string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n", "X: a slow header", ""},
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "a slow body", "incomplete"},
		{"GET / HTTP/1.0\r\nCookie: " + strings.Repeat("x", 12<<10) + "\r\n\r\n", "", "\nok"},
		{"GET / HTTP/1.0\r\nCookie: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", "", " 431 "},
	} {
		serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
			start, c := time.Now(), p.Dial()
			go func() {
				io.WriteString(c, tt.start)
				for _, letter := range tt.slow {
					time.Sleep(time.Second)
					io.WriteString(c, string(letter))
				}
			}()
			response, _ := io.ReadAll(c)
			if took := time.Since(start); took > 6*time.Second || !strings.Contains(string(response), tt.want) {
				t.Errorf("%.40q: response %q after %v, want %q within 6 s", tt.start, response, took, tt.want)
			}
			c.Close()
		})
	}
}

// While all connections have requests, a new one waits. A shutdown ends within 6 s nevertheless.
func TestTooManyRequests(t *testing.T) {
	serving(t, func(t *testing.T, p pipe.Listener, stop func() error) {
		start := time.Now()
		for range maxHTTPConnections {
			go request(p.Dial(), "/1s")
		}
		synctest.Wait()
		if err := request(p.Dial(), "/"); err != nil || time.Since(start) != time.Second {
			t.Errorf("one more: %v after %v, want a response after 1 s", err, time.Since(start))
		}
		for range maxHTTPConnections + 1 {
			go request(p.Dial(), "/1m")
		}
		synctest.Wait()
		start = time.Now()
		if err := stop(); err != nil || time.Since(start) != 6*time.Second {
			t.Errorf("Serve returned %v after %v, want nil after 6 s", err, time.Since(start))
		}
	})
}

// Connections without a request make room for others: hijacked ones, such as WebSockets, don't count, and idle ones are
// closed, even if they have sent part of another request.
func TestConnectionsWithoutRequest(t *testing.T) {
	for _, path := range []string{"/", "/hijack"} {
		serving(t, func(t *testing.T, p pipe.Listener, _ func() error) {
			start, first := time.Now(), net.Conn(nil)
			for i := range maxHTTPConnections + 10 {
				c := p.Dial()
				if err := request(c, path); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if i == 0 {
					first = c
				} else if path == "/" {
					io.WriteString(c, "GET / HTTP/1.1\r\n")
				}
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("%s: some connections had to wait: all took %v", path, took)
			}
			first.SetReadDeadline(time.Now())
			if _, err := first.Read(make([]byte, 1)); (err == io.EOF) != (path == "/") {
				t.Errorf("%s: the first connection: %v", path, err)
			}
		})
	}
}

// On shutdown, a request that is being handled gets its response. Connections that have not sent a byte, or are idle
// after two requests, don't delay the exit.
func TestShutdown(t *testing.T) {
	serving(t, func(t *testing.T, p pipe.Listener, stop func() error) {
		_, idle, busy := p.Dial(), p.Dial(), p.Dial()
		if err := cmp.Or(request(idle, "/"), request(idle, "/")); err != nil {
			t.Fatal(err)
		}
		response := make(chan error, 1)
		go func() { response <- request(busy, "/1s") }()
		synctest.Wait()
		start := time.Now()
		if err := stop(); err != nil || time.Since(start) > 2*time.Second {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
		if err := <-response; err != nil {
			t.Errorf("the request in flight: %v", err)
		}
	})
}

// Connections that arrive as the shutdown begins don't delay it, either.
func TestConnectionsDuringShutdown(t *testing.T) {
	for range 50 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		for range 4 {
			go func() {
				for err := error(nil); err == nil; {
					_, err = net.Dial("tcp", listener.Addr().String())
				}
			}()
		}
		start := time.Now()
		if err := Serve(ctx, listener, handler, noLog); err != nil || time.Since(start) > 4*time.Second {
			t.Fatalf("Serve returned %v after %v", err, time.Since(start))
		}
	}
}
