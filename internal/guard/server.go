package guard

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// connectionMemory is the most that a connection may cost, in bytes. Measured: 13 KB idle,
// and up to 150 KB while 8 KB of tiny headers arrive.
const connectionMemory = 160 << 10

// Server returns a server for handler that limits slow clients: 5 s to send a request,
// 8 KB of headers (else 431), 20 s to receive the response, 2 minutes idle. It keeps as
// many connections open as fit into the memory (512 MB: 3,276) and into a quarter of
// the open files that the process may have; WebSockets don't count.
func Server(log *slog.Logger, handler http.Handler) *http.Server {
	s := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // one for headers and body: net/http restarts each for every request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 4 << 10, // net/http adds 4 KB to it
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	limitConnections(s, log, min(int(memory(os.DirFS("/"))/connectionMemory), FileLimit()/4))
	closeUnused(s)
	return s
}

// limitConnections lets s keep n connections open. When there are more, idle ones are
// closed, and new ones wait in the system's queue until others have ended.
func limitConnections(s *http.Server, log *slog.Logger, n int) {
	slots := make(chan struct{}, n)
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // between two calls of Accept: waiting here delays the next
			select {
			case slots <- struct{}{}:
			default:
				log.Warn("too many open connections: idle ones are closed, new ones wait")
				s.SetKeepAlivesEnabled(false) // closes the idle ones
				slots <- struct{}{}
				s.SetKeepAlivesEnabled(true)
			}
		case http.StateHijacked, http.StateClosed:
			<-slots
		}
	}
}
