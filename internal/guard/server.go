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

// StopContext returns a context that is canceled when parent is, or when SIGINT or SIGTERM arrives.
// A second signal ends the process immediately. If it is still running nine seconds after the first
// signal, it exits with status 1, before Docker (10 s) or Heroku (30 s) would kill it.
func StopContext(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	signaled, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(signaled, func() {
		stop() // before cancel, so that a second signal ends the process
		cancel()
		if parent.Err() == nil {
			time.Sleep(9 * time.Second)
			os.Exit(1) // without logging, because the log may be what blocks
		}
	})
	return ctx
}

// Serve serves handler on listener until ctx is done. Then it accepts no more connections, gives
// in-flight requests 6 s to finish (a click takes up to 5 s), and returns nil. Hijacked
// connections, such as WebSockets, stay open. Other connections are limited to what fits into
// memory (2,340 in 512 MB, and at least 400), and to a quarter of the limit on open files. Serve
// fails if it can't accept connections.
func Serve(ctx context.Context, log *slog.Logger, listener net.Listener, handler http.Handler) error {
	// A connection that sends 8 KB of tiny headers uses 150 KB, plus half as much in garbage.
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
	late, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		log.Warn("shutting down: closed connections whose requests took too long")
		server.Close()
	}
	return nil
}

// newServer returns a server for handler that times out slow clients, rejects headers over 8 KB
// with 431, and allows n connections, not counting hijacked ones. To make room for another, it
// closes the one that has waited longest for the headers of a request. On shutdown, it closes all
// waiting connections, which browsers may have opened in advance; net/http would wait 5 s for them.
func newServer(log *slog.Logger, handler http.Handler, n int) *http.Server {
	s := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // for the headers and body of each request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 4 << 10, // net/http adds 4 KB
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	var mu sync.Mutex
	waiting := list.New() // of net.Conn; the one that has waited longest is first
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
	slots := make(chan struct{}, n+1) // one more for the shutdown
	for range n {
		slots <- struct{}{}
	}
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateNew { // no connection is accepted until this returns
			select {
			case <-slots:
			default:
				log.Warn("too many open connections: closing those that have been idle longest")
				s.SetKeepAlivesEnabled(closeWaiting()) // if none waits, close the first to finish
				<-slots
				s.SetKeepAlivesEnabled(true)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew, http.StateIdle: // it waits for the headers of a request
			elements[conn] = waiting.PushBack(conn)
		case http.StateActive:
			waiting.Remove(elements[conn])
		case http.StateHijacked, http.StateClosed:
			waiting.Remove(elements[conn]) // no-op unless it is waiting
			delete(elements, conn)
			slots <- struct{}{}
		}
	}
	s.RegisterOnShutdown(func() {
		slots <- struct{}{}                // unblocks ConnState, which Shutdown waits for
		time.Sleep(200 * time.Millisecond) // so that requests in transit can still arrive
		for closeWaiting() {
		}
	})
	return s
}
