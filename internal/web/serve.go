package web

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const maxConnections = 2000 // without WebSockets; further ones wait

// Serve serves handler on listener until ctx is done. Then it accepts no more connections, gives in-flight requests 6 s
// to finish (a click takes up to 5 s), and returns nil. Hijacked connections, such as WebSockets, stay open. Slow
// clients time out, and headers over 16 KB get 431. Serve fails if it can't accept connections.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := newServer(handler, log, maxConnections)
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		log.Info("shutting down: finishing in-flight clicks")
		late, cancel := context.WithTimeout(context.Background(), 6*time.Second)
		defer cancel()
		if err := server.Shutdown(late); err != nil {
			log.Warn("shutting down: closed connections whose requests took too long")
			server.Close()
		}
	})
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	<-stopped
	return nil
}

// newServer returns a server for handler with at most n connections, not counting hijacked ones; further ones wait.
// When all are in use, it closes idle ones. On shutdown, it closes connections that have not sent a whole request,
// which browsers open in advance; net/http would wait 5 s for them.
func newServer(handler http.Handler, log *slog.Logger, n int) *http.Server {
	var fresh sync.Map // connections in http.StateNew
	slots, stopping := make(chan struct{}, n), make(chan struct{})
	server := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // for the headers and body of each request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute, // longer than load balancers keep idle connections
		MaxHeaderBytes: 12 << 10,        // net/http adds 4 KB
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		fresh.Delete(conn)
		switch state {
		case http.StateNew:
			fresh.Store(conn, nil)
			if len(slots) == n {
				server.SetKeepAlivesEnabled(false) // closes idle connections, and others after their response
				defer server.SetKeepAlivesEnabled(true)
			}
			select {
			case slots <- struct{}{}: // until then, the server accepts no other connections
			case <-stopping:
			}
		case http.StateHijacked, http.StateClosed:
			select {
			case <-slots:
			case <-stopping:
			}
		}
	}
	server.RegisterOnShutdown(func() {
		close(stopping)
		fresh.Range(func(conn, _ any) bool {
			conn.(net.Conn).Close()
			return true
		})
	})
	return server
}
