package pushertest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// SockJS serves the part of the SockJS protocol that pusher-js uses if WebSockets are blocked: the server streams its
// messages, and the client sends each message in a request. SockJS connects each session to the Channels server at
// url, which begins with http.
func SockJS(t testing.TB, url string) http.Handler {
	var sessions sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("POST /pusher/app/{key}/{number}/{session}/xhr_streaming", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := websocket.Dial(r.Context(), url+"/app/"+r.PathValue("key")+"?protocol=7", nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		sessions.Store(r.PathValue("session"), conn)
		io.WriteString(w, strings.Repeat("h", 2048)+"\no\n")
		for {
			http.NewResponseController(w).Flush()
			_, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			quoted, _ := json.Marshal([]string{string(message)})
			fmt.Fprintf(w, "a%s\n", quoted)
		}
	})
	mux.HandleFunc("POST /pusher/app/{key}/{number}/{session}/xhr_send", func(w http.ResponseWriter, r *http.Request) {
		var messages []string
		if err := json.NewDecoder(r.Body).Decode(&messages); err != nil {
			t.Error(err)
		}
		conn, ok := sessions.Load(r.PathValue("session"))
		for _, m := range messages {
			if ok {
				conn.(*websocket.Conn).Write(r.Context(), websocket.MessageText, []byte(m))
			}
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Headers", "*")
		if r.Method != "OPTIONS" {
			mux.ServeHTTP(w, r)
		}
	})
}
