package guard

import (
	"log/slog"
	"net/http"
	"time"
)

// Server returns a server for handler that nobody can hold up: a request must come
// within 5 s, with a head of at most 16 KB (431 beyond), and be answered within 20 s;
// an idle connection is kept for 2 minutes.
func Server(log *slog.Logger, handler http.Handler) *http.Server {
	s := &http.Server{
		Handler:        handler,
		ReadTimeout:    5 * time.Second, // one for head and body: each more is set anew for each request
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 12 << 10, // net/http adds 4 KB to it
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	closeUnused(s)
	return s
}
