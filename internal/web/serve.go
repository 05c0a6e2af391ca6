package web

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const maxRequests = 2000 // connections with a request that is not finished; further ones wait

// Serve serves handler on listener until ctx is done. Then it accepts no more connections, gives in-flight requests 6 s
// to finish (a click takes up to 5 s), and returns nil. Hijacked connections, such as WebSockets, stay open. Slow
// clients time out, and headers over 16 KB get 431. Serve fails if it can't accept connections.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := newServer(handler, log, maxRequests)
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

// newServer returns a server for handler that handles n connections at a time, not counting idle and hijacked ones. A
// connection is busy from its start, or from the first byte of another request, until it is idle again. On shutdown, it
// closes connections that have never sent a byte, which browsers open in advance; net/http would wait 5 s for them.
func newServer(handler http.Handler, log *slog.Logger, n int) *http.Server {
	var states sync.Map // the http.ConnState of each net.Conn
	busy, stopping := make(chan struct{}, n), make(chan struct{})
	server := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // for the headers and body of each request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute, // longer than load balancers keep idle connections
		MaxHeaderBytes: 12 << 10,        // net/http adds 4 KB
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnState: func(conn net.Conn, state http.ConnState) {
			previous, _ := states.Swap(conn, state)
			if state == http.StateHijacked || state == http.StateClosed {
				states.Delete(conn)
			}
			switch was, is := isBusy(previous), isBusy(state); {
			case is && !was:
				select {
				case busy <- struct{}{}: // until then, a new connection stops the server from accepting others
				case <-stopping:
				}
			case was && !is:
				select {
				case <-busy:
				case <-stopping:
				}
			}
		},
	}
	server.RegisterOnShutdown(func() {
		close(stopping)
		states.Range(func(conn, state any) bool {
			if state == http.StateNew {
				conn.(net.Conn).Close()
			}
			return true
		})
	})
	return server
}

func isBusy(state any) bool { return state == http.StateNew || state == http.StateActive }
