package guard

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// How long stopping may take, from the signal on.
const (
	unusedTime  = 200 * time.Millisecond // for the first byte on a connection
	requestTime = 6 * time.Second        // for requests in flight; a click needs 5 s at most
	stopTime    = 9 * time.Second        // for all of it
)

// StopContext returns a context that ends with ctx or at SIGINT or SIGTERM. The process
// must then end by itself: a second signal ends it, and so does the time, 9 s after
// the first, unless done has been called.
func StopContext(ctx context.Context) (stopping context.Context, done func()) {
	stopping, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	context.AfterFunc(stopping, func() {
		stop()
		select {
		case <-ended:
		case <-time.After(stopTime): // not logged: a log that nobody reads may be what blocks
			os.Exit(1)
		}
	})
	return stopping, func() {
		close(ended)
		stop()
	}
}

// Serve serves handler on listener until ctx ends. Then it accepts no more connections
// and lets requests in flight finish within 6 s. Hijacked connections stay open.
func Serve(ctx context.Context, log *slog.Logger, listener net.Listener, handler http.Handler) error {
	server := Server(log, handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("shutting down: finishing in-flight clicks, asking pages to reconnect")
	late, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		log.Warn("some requests took too long and were cut off")
		server.Close()
	}
	return nil
}
