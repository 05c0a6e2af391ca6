package channels

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// event is an event in a request to the HTTP API.
type event struct {
	Name     string   `json:"name"`
	Channel  string   `json:"channel"`
	Channels []string `json:"channels"`
	Data     *string  `json:"data"`
	SocketID string   `json:"socket_id"` // the connection to exclude, usually the sender's
}

// rejection is the response to an invalid request.
type rejection struct {
	status int
	text   string
}

func reject(status int, format string, args ...any) *rejection {
	return &rejection{status, fmt.Sprintf(format, args...)}
}

// serveEvents serves POST /apps/{id}/events and POST /apps/{id}/batch_events. It publishes all events in the body, or
// none if one of them is invalid.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	events, err := s.decode(w, r)
	if err != nil {
		s.log.Debug("API request rejected", "path", r.URL.Path, "status", err.status, "reason", err.text)
		http.Error(w, err.text, err.status)
		return
	}
	s.publish(events)
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, "{}")
}

// decode authenticates a request and returns the events in its body. It reads the body only if the signature is valid,
// so that clients without the secret can't fill the memory.
func (s *Server) decode(w http.ResponseWriter, r *http.Request) ([]event, *rejection) {
	query := r.URL.Query()
	if err := s.authenticate(r, query); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, reject(413, "The body is over %d bytes: send fewer or smaller events", maxBody)
	case err != nil:
		return nil, reject(400, "The body is incomplete: send all of it")
	case query.Get("body_md5") != fmt.Sprintf("%x", md5.Sum(data)): // not secret, so no hmac.Equal
		return nil, reject(401, "Invalid body_md5: it must be the MD5 of the body, in hex")
	}
	var body struct {
		event
		Batch []event `json:"batch"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return nil, reject(400, "The body is not valid JSON for an event: %.200s", err)
	}
	events := []event{body.event}
	if strings.HasSuffix(r.URL.Path, "/batch_events") {
		events = body.Batch
	}
	if n := len(events); n == 0 || n > maxBatch {
		return nil, reject(400, "A batch must have 1 to %d events, not %d", maxBatch, n)
	}
	for i := range events {
		e := &events[i]
		if e.Channel != "" && len(e.Channels) == 0 {
			e.Channels = []string{e.Channel}
		}
		if err := e.check(); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// authenticate checks the auth parameters of a request, in the order that gives the most helpful error. See
// https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication.
func (s *Server) authenticate(r *http.Request, query url.Values) *rejection {
	signature := query.Get("auth_signature")
	query.Del("auth_signature")
	signed, _ := url.QueryUnescape(query.Encode()) // the other parameters, sorted by name
	request := r.Method + "\n" + r.URL.Path + "\n" + signed
	mac := hmac.New(sha256.New, []byte(s.secret))
	io.WriteString(mac, request)
	seconds, _ := strconv.ParseInt(query.Get("auth_timestamp"), 10, 64)
	sent, now := time.Unix(seconds, 0).UTC(), time.Now().UTC()
	switch {
	case r.PathValue("id") != s.appID:
		return reject(404, "Unknown app: this server has no app with the ID %.40q", r.PathValue("id"))
	case query.Get("auth_key") != s.key:
		return reject(400, "Unknown auth_key: sign every request with this app's key and secret")
	case now.Sub(sent).Abs() > maxClockSkew:
		return reject(401, "Timestamp expired: Given timestamp (%s) not within %.0fs of server time (%s)",
			sent.Format(time.RFC3339), maxClockSkew.Seconds(), now.Format(time.RFC3339))
	case !hmac.Equal([]byte(signature), fmt.Appendf(nil, "%x", mac.Sum(nil))):
		return reject(401, "Invalid signature: auth_signature must be the hex HMAC-SHA256, with this app's secret, of "+
			"%.400q", request)
	}
	return nil
}

var channelName = regexp.MustCompile(`^[A-Za-z0-9_\-=@,.;]+$`)

// IsPublic reports whether a channel needs no authorization; the prefix of its name determines that. The server
// supports public channels only.
func IsPublic(channel string) bool {
	return !strings.HasPrefix(channel, "private-") && !strings.HasPrefix(channel, "presence-")
}

// channelProblem returns what is wrong with the name of a channel, or "".
func channelProblem(name string) string {
	if len(name) <= maxChannelName && channelName.MatchString(name) {
		return ""
	}
	return fmt.Sprintf("Invalid channel name %.40q: use 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", name,
		maxChannelName)
}

// check checks an event against the protocol's limits.
func (e *event) check() *rejection {
	switch {
	case e.Name == "" || utf8.RuneCountInString(e.Name) > maxEventName:
		return reject(400, "The event's name must have 1 to %d characters", maxEventName)
	case len(e.Channels) == 0 || len(e.Channels) > maxEventChannels:
		return reject(400, "The event must have 1 to %d channels, not %d", maxEventChannels, len(e.Channels))
	case e.Data == nil:
		return reject(400, "The event has no data: set it to a string")
	case len(*e.Data) > maxEventData:
		return reject(413, "The event's data is over %d bytes: send less", maxEventData)
	}
	for _, name := range e.Channels {
		if problem := channelProblem(name); problem != "" {
			return reject(400, "%s", problem)
		}
	}
	return nil
}
