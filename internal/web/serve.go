package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// maxHTTPConnections is the maximum number of connections, not counting WebSockets; further ones wait. It bounds the
// memory: 9,000 requests with headers of a few bytes each would take over 500 MB.
const maxHTTPConnections = 2000

// Listen listens on addr. An error says why that failed and how to fix it.
func Listen(addr string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	switch errno, _ := errors.AsType[syscall.Errno](err); {
	case err == nil:
		return listener, nil
	case errno == syscall.EADDRINUSE, errno == 10048: // on Windows, where the constant has an invented value
		return nil, fmt.Errorf("%s is already in use by another program: stop it, or choose another address with "+
			"-addr %s", addr, NextAddr(addr))
	default:
		return nil, fmt.Errorf("can't listen on %s (%w): set -addr to HOST:PORT with an address of this machine and a "+
			"port that you may use, such as 127.0.0.1:5001, or :5001 for all network interfaces", addr, err)
	}
}

// NextAddr returns addr with the next port (1 after 65535). The port may be a name, such as http.
func NextAddr(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := net.LookupPort("tcp", port)
	return net.JoinHostPort(host, strconv.Itoa(n%65535+1))
}

// Serve serves handler on listener until ctx is done. Then it accepts no more connections, gives in-flight requests 6 s
// to finish (a click takes up to 5 s), and returns nil. Hijacked connections, such as WebSockets, stay open. Slow
// clients time out, and headers over 16 KB get 431. Serve fails if it can't accept connections.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := newServer(ctx, handler, log)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
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

// newServer returns a server for handler with at most maxHTTPConnections connections, not counting hijacked ones. At
// the limit, it closes idle connections. On shutdown, when ctx is done, it closes connections without the complete
// headers of a first request, such as those that browsers open in advance; net/http would wait 5 s for them.
func newServer(ctx context.Context, handler http.Handler, log *slog.Logger) *http.Server {
	server := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // for the headers and body of each request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute, // longer than load balancers keep idle connections
		MaxHeaderBytes: 12 << 10,        // net/http adds 4 KB
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	slots := make(chan struct{}, maxHTTPConnections)
	var unused sync.Map // connections in http.StateNew
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		unused.Delete(conn)
		switch state {
		case http.StateNew:
			unused.Store(conn, nil)
			// At the limit, close idle connections now, and the others after their response.
			server.SetKeepAlivesEnabled(len(slots) < maxHTTPConnections)
			select {
			case slots <- struct{}{}: // until then, the server accepts no other connections
			case <-ctx.Done():
			}
			if ctx.Err() != nil {
				conn.Close() // it may be too new for the function below
			}
		case http.StateHijacked, http.StateClosed:
			select {
			case <-slots:
			default: // ctx is done
			}
		}
	}
	server.RegisterOnShutdown(func() {
		unused.Range(func(conn, _ any) bool {
			conn.(net.Conn).Close()
			return true
		})
	})
	return server
}
