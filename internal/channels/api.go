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

// apiError is the response to an invalid request.
type apiError struct {
	status int
	text   string
}

func fail(status int, format string, args ...any) *apiError {
	return &apiError{status, fmt.Sprintf(format, args...)}
}

// serveEvents serves POST /apps/{id}/events and POST /apps/{id}/batch_events. It publishes all events in the body, or
// none if one of them is invalid.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	var body struct {
		event
		Batch []event `json:"batch"`
	}
	err := s.decode(w, r, &body)
	events := []event{body.event}
	if strings.HasSuffix(r.URL.Path, "/batch_events") {
		events = body.Batch
	}
	if n := len(events); err == nil && (n == 0 || n > maxBatch) {
		err = fail(http.StatusBadRequest, "A batch must have 1 to %d events, not %d", maxBatch, n)
	}
	for i := 0; err == nil && i < len(events); i++ {
		err = events[i].validate()
	}
	if err != nil {
		s.log.Debug("API request rejected", "path", r.URL.Path, "status", err.status, "reason", err.text)
		http.Error(w, err.text, err.status)
		return
	}
	s.publish(events)
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, "{}")
}

// decode authenticates a request and decodes its JSON body. It reads the body only if the signature is valid, so that
// clients without the secret can't fill the memory.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, into any) *apiError {
	query := r.URL.Query()
	if err := s.authenticate(r, query); err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return fail(http.StatusRequestEntityTooLarge, "The body is over %d bytes: send fewer or smaller events", maxBody)
	case err != nil:
		return fail(http.StatusBadRequest, "The body is incomplete: send all of it")
	case query.Get("body_md5") != fmt.Sprintf("%x", md5.Sum(body)): // not secret, so no hmac.Equal
		return fail(http.StatusUnauthorized, "Invalid body_md5: it must be the MD5 of the body, in hex")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fail(http.StatusBadRequest, "The body is not the JSON of an event: %.200s", err)
	}
	return nil
}

// authenticate checks the auth parameters of a request, in the order that gives the most helpful error. See
// https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication.
func (s *Server) authenticate(r *http.Request, query url.Values) *apiError {
	signature := query.Get("auth_signature")
	query.Del("auth_signature")
	signed, _ := url.QueryUnescape(query.Encode()) // the other parameters, sorted by name
	text := r.Method + "\n" + r.URL.Path + "\n" + signed
	mac := hmac.New(sha256.New, []byte(s.secret))
	io.WriteString(mac, text)
	stamp, _ := strconv.ParseInt(query.Get("auth_timestamp"), 10, 64)
	now := time.Now()
	switch {
	case signature == "":
		return fail(http.StatusUnauthorized, "The query parameter auth_signature is missing: sign every request")
	case r.PathValue("id") != s.appID:
		return fail(http.StatusNotFound, "Unknown app: this server has no app with the ID %.40q", r.PathValue("id"))
	case query.Get("auth_key") != s.key:
		return fail(http.StatusBadRequest, "Unknown auth_key: it must be this app's key")
	case stamp < now.Unix()-maxClockSkew || stamp > now.Unix()+maxClockSkew:
		return fail(http.StatusUnauthorized, "Timestamp expired: Given timestamp (%s) not within %ds of server time (%s)",
			time.Unix(stamp, 0).UTC().Format(time.RFC3339), maxClockSkew, now.UTC().Format(time.RFC3339))
	case !hmac.Equal([]byte(signature), fmt.Appendf(nil, "%x", mac.Sum(nil))):
		return fail(http.StatusUnauthorized,
			"Invalid signature: it must be the hex HMAC-SHA256, with this app's secret, of %.400q", text)
	}
	return nil
}

var (
	channelName = regexp.MustCompile(`^[A-Za-z0-9_\-=@,.;]+$`)
	socketID    = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
)

// IsPublic reports whether a channel needs no authorization, as the prefix of its name says. The server has only such
// channels.
func IsPublic(channel string) bool {
	return !strings.HasPrefix(channel, "private-") && !strings.HasPrefix(channel, "presence-")
}

// checkChannel returns what is wrong with the name of a channel, or "".
func checkChannel(name string) string {
	if len(name) <= maxChannelName && channelName.MatchString(name) {
		return ""
	}
	return fmt.Sprintf("Invalid channel name %.40q: use 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", name,
		maxChannelName)
}

// validate checks an event against the protocol's limits. If only Channel is set, it sets Channels.
func (e *event) validate() *apiError {
	if e.Channel != "" && len(e.Channels) == 0 {
		e.Channels = []string{e.Channel}
	}
	switch {
	case e.Name == "" || utf8.RuneCountInString(e.Name) > maxEventName:
		return fail(http.StatusBadRequest, "The event's name must have 1 to %d characters", maxEventName)
	case len(e.Channels) == 0 || len(e.Channels) > maxEventChannels:
		return fail(http.StatusBadRequest, "The event must have 1 to %d channels, not %d", maxEventChannels, len(e.Channels))
	case e.Data == nil:
		return fail(http.StatusBadRequest, "The event has no data: set it to a string")
	case len(*e.Data) > maxEventData:
		return fail(http.StatusRequestEntityTooLarge, "The event's data is over %d bytes: send less", maxEventData)
	case e.SocketID != "" && !socketID.MatchString(e.SocketID):
		return fail(http.StatusBadRequest, "Invalid socket_id: it must be two numbers with a dot between them")
	}
	for _, name := range e.Channels {
		if problem := checkChannel(name); problem != "" {
			return fail(http.StatusBadRequest, "%s", problem)
		}
	}
	return nil
}
