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

// Time limits for shutting down, counted from the signal.
const (
	unusedTime  = 200 * time.Millisecond // for the first byte on a connection
	requestTime = 6 * time.Second        // for in-flight requests; a click needs 5 s at most
	stopTime    = 9 * time.Second        // for the whole shutdown
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
			time.Sleep(stopTime)
			os.Exit(1) // not logged, because a blocked log may be the cause
		}
	})
	return ctx
}

// Serve serves handler on listener until ctx is done. Then it accepts no more connections, and
// gives in-flight requests 6 s to finish. Hijacked connections stay open.
func Serve(ctx context.Context, log *slog.Logger, listener net.Listener, handler http.Handler) error {
	server := Server(log, handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("shutting down: finishing in-flight clicks")
	late, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	if err := server.Shutdown(late); err != nil {
		log.Warn("shutting down: closed connections whose requests took too long")
		server.Close()
	}
	return nil
}
