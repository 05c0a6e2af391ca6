package guard

import (
	"container/list"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// connectionMemory is the memory that a connection may need, in bytes. Measured: 13 KB idle,
// 150 KB while 8 KB of tiny headers arrive, and half as much again until it is collected.
const connectionMemory = 224 << 10

// Server returns a server for handler that limits slow clients: 5 s to send a request,
// 8 KB of headers (else 431), 20 s to receive the response, 2 minutes idle. It keeps as
// many connections open as fit into the memory (2,340 into 512 MB, but at least 400) and
// into a quarter of the files that the process may open; WebSockets don't count.
func Server(log *slog.Logger, handler http.Handler) *http.Server {
	s := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // one for headers and body: net/http restarts each for every request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 4 << 10, // net/http adds 4 KB to it
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	limitConnections(s, log, min(max(400, int(memory(os.DirFS("/"))/connectionMemory)), FileLimit()/4))
	return s
}

// limitConnections lets s keep n connections open. One more takes the place of the one that
// has waited the longest for a complete request. Shutdown closes all that wait, such as
// those that browsers open in advance; by itself it waits 5 s for the first byte on each.
func limitConnections(s *http.Server, log *slog.Logger, n int) {
	type connection struct {
		net.Conn
		waiting bool
	}
	var mu sync.Mutex
	all := list.New() // of *connection, by the time since when they wait
	elements := make(map[net.Conn]*list.Element)
	closeWaiting := func(most int) (closed int) {
		mu.Lock()
		defer mu.Unlock()
		for e := all.Front(); e != nil && closed < most; e = e.Next() {
			if c := e.Value.(*connection); c.waiting {
				c.waiting = false
				c.Close()
				closed++
			}
		}
		return closed
	}
	slots := make(chan struct{}, n)
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew { // Serve calls this between two calls of Accept
			select {
			case slots <- struct{}{}:
			default:
				log.Warn("too many open connections: those that have waited the longest are closed")
				closed := closeWaiting(1)
				s.SetKeepAlivesEnabled(closed > 0) // if none waits, the next to finish is closed
				slots <- struct{}{}
				s.SetKeepAlivesEnabled(true)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			elements[conn] = all.PushBack(&connection{conn, true})
		case http.StateActive, http.StateIdle: // a complete request has arrived, or been responded to
			elements[conn].Value.(*connection).waiting = state == http.StateIdle
			all.MoveToBack(elements[conn])
		case http.StateHijacked, http.StateClosed:
			all.Remove(elements[conn])
			delete(elements, conn)
			<-slots
		}
	}
	s.RegisterOnShutdown(func() {
		time.Sleep(unusedTime) // a request may be on its way
		closeWaiting(n)
	})
}
