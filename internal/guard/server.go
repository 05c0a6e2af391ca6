package guard

import (
	"log/slog"
	"net/http"
	"time"
)

// Server returns a server for handler that nobody can hold up: a request's head
// must come within 5 s and be at most 16 KB (431 beyond), the whole request within
// 10 s, and be answered within 20 s; an idle connection is kept for 2 minutes.
func Server(log *slog.Logger, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    12 << 10, // net/http adds 4 KB to it
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
