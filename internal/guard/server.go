package guard

import (
	"container/list"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// connectionMemory is the memory that a connection may need, in bytes. A connection was measured
// to use 13 KB while idle, 150 KB while it receives 8 KB of tiny headers, and half as much again
// until the next garbage collection.
const connectionMemory = 224 << 10

// Server returns a server for handler that limits slow clients: 5 s to send a request,
// 8 KB of headers (else 431), 20 s to receive the response, 2 minutes idle. It limits
// open connections to as many as fit in memory (2,340 in 512 MB, but at least 400) and to a
// quarter of the process's limit on open files; WebSockets don't count.
func Server(log *slog.Logger, handler http.Handler) *http.Server {
	s := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // covers headers and body; net/http restarts it for every request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 4 << 10, // net/http adds 4 KB
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	limitConnections(s, log, min(max(400, int(memory()/connectionMemory)), FileLimit()/4))
	return s
}

// limitConnections limits s to n open connections. To make room for a new connection, it closes
// the one that has waited longest for a request's headers. On shutdown, it closes all waiting
// connections, such as those that browsers open in advance; net/http alone would wait 5 s for
// each.
func limitConnections(s *http.Server, log *slog.Logger, n int) {
	var mu sync.Mutex
	waiting := list.New() // of net.Conn; those that have waited longest come first
	elements := make(map[net.Conn]*list.Element)
	closeWaiting := func() (closed bool) {
		mu.Lock()
		defer mu.Unlock()
		first := waiting.Front()
		if first != nil {
			waiting.Remove(first).(net.Conn).Close()
		}
		return first != nil
	}
	slots := make(chan struct{}, n)
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew { // Serve calls this between two calls of Accept
			select {
			case slots <- struct{}{}:
			default:
				log.Warn("too many open connections: closing those that have been idle longest")
				s.SetKeepAlivesEnabled(closeWaiting()) // if none is waiting, close the next one that finishes a request
				slots <- struct{}{}
				s.SetKeepAlivesEnabled(true)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew, http.StateIdle: // until a request's headers, or after the response
			elements[conn] = waiting.PushBack(conn)
		case http.StateActive:
			waiting.Remove(elements[conn])
		case http.StateHijacked, http.StateClosed:
			waiting.Remove(elements[conn]) // if it waits
			delete(elements, conn)
			<-slots
		}
	}
	s.RegisterOnShutdown(func() {
		time.Sleep(unusedTime) // for requests in transit
		for closeWaiting() {
		}
	})
}
