package guard

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// StopContext returns a context that is canceled with parent or by SIGINT or SIGTERM. After the
// first signal, a second one ends the process immediately. Nine seconds after the first signal,
// the process exits with status 1 if it is still running.
func StopContext(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	signaled, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(signaled, func() {
		stop() // before cancel, so that no second signal is lost
		cancel()
		if parent.Err() == nil {
			time.Sleep(9 * time.Second)
			os.Exit(1) // not logged, because a blocked log may be the cause
		}
	})
	return ctx
}

// Serve serves handler on listener until ctx is done. Then it accepts no more connections, and
// gives in-flight requests 6 s to finish. Hijacked connections, such as WebSockets, stay open. It
// allows as many other connections as fit in memory (2,340 in 512 MB; at least 400), but at most
// a quarter of the limit on open files.
func Serve(ctx context.Context, log *slog.Logger, listener net.Listener, handler http.Handler) error {
	// In measurements, a connection used 13 KB while idle and 150 KB while it received 8 KB of
	// tiny headers, plus half as much again until the next garbage collection.
	fitting := int(memory(os.DirFS("/")) / (224 << 10))
	server := newServer(log, handler, min(max(400, fitting), FileLimit()/4))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("shutting down: finishing in-flight clicks")
	late, cancel := context.WithTimeout(context.Background(), 6*time.Second) // a click needs 5 s at most
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		log.Warn("shutting down: closed connections whose requests took too long")
		server.Close()
	}
	return nil
}

// newServer returns a server for handler that limits slow clients, headers (8 KB; more get 431),
// and open connections (n, not counting hijacked ones). To admit a new connection, it closes the
// one that has waited longest for a request's headers. On shutdown, it closes all waiting ones,
// such as those that browsers open in advance; net/http alone would wait up to 5 s for them.
func newServer(log *slog.Logger, handler http.Handler, n int) *http.Server {
	s := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // covers headers and body; net/http restarts it for every request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 4 << 10, // net/http adds 4 KB
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
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
		case http.StateNew, http.StateIdle: // waits for the headers of its first or next request
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
		time.Sleep(200 * time.Millisecond) // for the first byte of a request in transit
		for closeWaiting() {
		}
	})
	return s
}
