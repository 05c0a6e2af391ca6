package pushertest

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"pusher-sample/internal/channels"
)

// Server is a fake Pusher: a Channels server that checks signatures, records events, and can be made to fail.
type Server struct {
	HTTP      *httptest.Server
	PusherURL string // for PUSHER_URL; key and secret are testkey and testsecret

	channels *channels.Server

	mu       sync.Mutex
	events   []string
	override http.HandlerFunc
}

// NewServer starts a Server. It is closed at the end of the test.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{channels: channels.New("1234", "testkey", "testsecret", slog.New(slog.DiscardHandler))}
	s.HTTP = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		override := s.override
		s.mu.Unlock()
		if override != nil {
			override(w, r)
			return
		}
		s.ServeHTTP(w, r)
	}))
	s.PusherURL = "http://testkey:testsecret@" + strings.TrimPrefix(s.HTTP.URL, "http://") + "/apps/1234"
	t.Cleanup(func() {
		s.HTTP.Config.Close() // unlike s.HTTP.Close, doesn't wait for handlers, which may be stuck if the test fails
		s.channels.Close()
	})
	return s
}

// ServeHTTP responds as Pusher does, even while Override is in effect.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "GET" {
		r.Header.Del("Origin") // Pusher accepts connections from every site
		s.channels.ServeHTTP(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	response := httptest.NewRecorder()
	s.channels.ServeHTTP(response, r)
	if response.Code == http.StatusOK {
		s.mu.Lock()
		s.events = append(s.events, string(body))
		s.mu.Unlock()
	}
	w.WriteHeader(response.Code)
	w.Write(response.Body.Bytes())
}

// Override makes handler respond to all requests, until Override(nil).
func (s *Server) Override(handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.override = handler
}

// Events returns the bodies of all trigger requests that were accepted.
func (s *Server) Events() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}
