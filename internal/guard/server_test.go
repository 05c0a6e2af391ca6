package guard

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// held runs a test against Server, on synctest's clock. The handler reads nothing
// at /, everything at /read, and never comes to an end at /stuck.
func held(t *testing.T, test func(t *testing.T, p pipe.Listener)) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan bool)
		p := make(pipe.Listener)
		server := Server(slog.New(slog.DiscardHandler), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/read":
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					http.Error(w, "not whole", http.StatusBadRequest)
					return
				}
			case "/stuck":
				<-stuck
			}
			io.WriteString(w, "ok")
		}))
		go server.Serve(p)
		test(t, p)
		close(stuck)
		server.Close()
	})
}

// A request that comes a byte a second is given up in time.
func TestSlowRequests(t *testing.T) {
	const limit = 5 * time.Second
	tests := []struct {
		name, head, trickle string
		want                string // what is answered, if anything
	}{
		{"head", "", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 1000), ""},
		{"nothing at all", "", "", ""},
		{"body that is read", "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("x", 1000), "not whole"},
		{"body that is not read", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("x", 1000), "ok"},
		{"chunks", "POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\nx\r\n", 1000), "not whole"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			held(t, func(t *testing.T, p pipe.Listener) {
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
				answer, _ := io.ReadAll(c)
				if took := time.Since(start); took > limit+time.Second {
					t.Errorf("it was borne for %v", took)
				}
				if !strings.Contains(string(answer), tt.want) {
					t.Errorf("answered %q, want %q", answer, tt.want)
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
		{"address", "GET /" + huge, 431},
		{"body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n", 200},
		{"endless body", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			held(t, func(t *testing.T, p pipe.Listener) {
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
					t.Errorf("answer %v %v, want status %d", resp, err, tt.status)
				}
				io.Copy(io.Discard, r) // until the connection ends
				c.Close()
				limit := 1 << 20 // of a body that nobody reads
				if tt.status == 431 {
					limit = 32 << 10
				}
				if n := <-sent; n > limit {
					t.Errorf("%d bytes were taken", n)
				}
			})
		})
	}
}

// A client that does not read its answer, or whose answer does not come, is let go.
func TestSlowAnswers(t *testing.T) {
	held(t, func(t *testing.T, p pipe.Listener) {
		c := p.Dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		start := time.Now()
		time.Sleep(21 * time.Second) // of not reading
		synctest.Wait()
		if _, err := io.ReadAll(c); time.Since(start) > 21*time.Second {
			t.Errorf("the connection lived on: %v", err)
		}
		c.Close()
	})
}

// A thousand connections that ask for nothing take little, hinder nobody and end.
func TestIdleConnections(t *testing.T) {
	held(t, func(t *testing.T, p pipe.Listener) {
		ask := func(c net.Conn) error {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
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
		before := heap()
		idle := make([]net.Conn, 1000)
		for i := range idle {
			idle[i] = p.Dial()
			if i%2 == 0 { // half of them have asked once
				if err := ask(idle[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		if each := (heap() - before) / len(idle); each > 32<<10 {
			t.Errorf("%d bytes are kept for each", each)
		}
		if err := ask(p.Dial()); err != nil {
			t.Errorf("meanwhile, a request: %v", err)
		}
		start := time.Now()
		for i, c := range idle {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(start) > 2*time.Minute {
				t.Fatalf("connection %d: %v after %v", i, err, time.Since(start))
			}
		}
	})
}

func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
