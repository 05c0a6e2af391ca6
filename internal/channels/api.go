package channels

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// event is one event of the HTTP API, as its caller sent it.
type event struct {
	Name     string   `json:"name"`
	Channel  string   `json:"channel"`
	Channels []string `json:"channels"`
	Data     *string  `json:"data"`
	SocketID string   `json:"socket_id"` // hears nothing of it
}

// refusal is what an API caller did wrong.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// serveEvents is POST /apps/{id}/events.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, func(body []byte) ([]event, error) {
		var e event
		if err := decode(body, &e); err != nil {
			return nil, err
		}
		return []event{e}, nil
	})
}

// serveBatch is POST /apps/{id}/batch_events.
func (s *Server) serveBatch(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, func(body []byte) ([]event, error) {
		var b struct {
			Batch []event `json:"batch"`
		}
		if err := decode(body, &b); err != nil {
			return nil, err
		}
		if len(b.Batch) == 0 || len(b.Batch) > maxBatch {
			return nil, refuse(http.StatusBadRequest, "A batch holds 1 to %d events, not %d", maxBatch, len(b.Batch))
		}
		for _, e := range b.Batch {
			if len(e.Channels) > 0 {
				return nil, refuse(http.StatusBadRequest, "An event of a batch goes to one channel: give channel, not channels")
			}
		}
		return b.Batch, nil
	})
}

// answer publishes the events in a signed request, all or none.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, parse func(body []byte) ([]event, error)) {
	events, err := func() ([]event, error) {
		body, err := s.authenticate(w, r)
		if err != nil {
			return nil, err
		}
		events, err := parse(body)
		if err != nil {
			return nil, err
		}
		for i := range events {
			if err := events[i].validate(); err != nil {
				return nil, err
			}
		}
		return events, nil
	}()
	var refused *refusal
	if errors.As(err, &refused) {
		s.log.Debug("API call refused", "path", r.URL.Path, "status", refused.status, "reason", refused.text)
		http.Error(w, refused.text, refused.status)
		return
	}
	s.publish(events)
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, "{}")
}

// authenticate checks a request's signature, and only then reads its body, so
// that strangers can't have it read. The order of checks gives the most helpful
// refusal. (https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication)
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "The query can't be read: check its escapes")
	}
	for name, values := range query {
		if len(values) != 1 {
			return nil, refuse(http.StatusBadRequest, "Give the query parameter %.40q once", name)
		}
	}
	for _, name := range []string{"auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"} {
		if query.Get(name) == "" {
			return nil, refuse(http.StatusUnauthorized, "The query parameter %s is missing: every request must be signed", name)
		}
	}
	if r.PathValue("id") != s.app.ID {
		return nil, refuse(http.StatusNotFound, "Unknown app: no app has the ID %.40q here", r.PathValue("id"))
	}
	if query.Get("auth_key") != s.app.Key {
		return nil, refuse(http.StatusBadRequest, "Unknown auth_key")
	}
	if query.Get("auth_version") != "1.0" {
		return nil, refuse(http.StatusUnauthorized, "Unknown auth_version: it must be 1.0")
	}
	stamp, err := strconv.ParseInt(query.Get("auth_timestamp"), 10, 64)
	if err != nil {
		return nil, refuse(http.StatusUnauthorized, "auth_timestamp must be in seconds since 1970, in digits")
	}
	now := time.Now()
	if stamp < now.Unix()-maxClockSkew || stamp > now.Unix()+maxClockSkew {
		return nil, refuse(http.StatusUnauthorized, "Timestamp expired: Given timestamp (%s) not within %ds of server time (%s)",
			time.Unix(stamp, 0).UTC().Format(time.RFC3339), maxClockSkew, now.UTC().Format(time.RFC3339))
	}
	text := signedText(r.Method, r.URL.Path, query)
	if !hmac.Equal([]byte(query.Get("auth_signature")), []byte(sign(s.app.Secret, text))) {
		return nil, refuse(http.StatusUnauthorized, "Invalid signature: it must be the HMAC SHA256, in hex and with the secret of this app, of %.400q", text)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, refuse(http.StatusRequestEntityTooLarge, "The body is over %d bytes", maxBody)
	} else if err != nil {
		return nil, refuse(http.StatusBadRequest, "The body did not arrive whole")
	}
	sum := md5.Sum(body)
	if subtle.ConstantTimeCompare([]byte(query.Get("body_md5")), []byte(hex.EncodeToString(sum[:]))) != 1 {
		return nil, refuse(http.StatusUnauthorized, "Invalid body_md5: it is not the MD5, in hex, of this body")
	}
	return body, nil
}

// signedText is what a request's signature signs: method, path, and the query
// without the signature, sorted, names in lower case, nothing escaped.
func signedText(method, path string, query url.Values) string {
	var parts []string
	for name, values := range query {
		if name != "auth_signature" {
			parts = append(parts, strings.ToLower(name)+"="+values[0])
		}
	}
	slices.Sort(parts)
	return method + "\n" + path + "\n" + strings.Join(parts, "&")
}

func sign(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, text)
	return hex.EncodeToString(mac.Sum(nil))
}

func decode(body []byte, into any) error {
	wrong := new(json.UnmarshalTypeError)
	switch err := json.Unmarshal(body, into); {
	case errors.As(err, &wrong):
		return refuse(http.StatusBadRequest, "In the body, %.80s can't be a JSON %.20s", wrong.Field, wrong.Value)
	case err != nil:
		return refuse(http.StatusBadRequest, "The body is not JSON")
	}
	return nil
}

var (
	channelName = regexp.MustCompile(`^[A-Za-z0-9_\-=@,.;]+$`)
	socketID    = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
)

func validChannel(name string) bool {
	return len(name) <= maxChannelName && channelName.MatchString(name)
}

// validate says what is wrong with an event. It moves Channel into Channels.
func (e *event) validate() error {
	if e.Channel != "" && len(e.Channels) == 0 {
		e.Channels = []string{e.Channel}
	}
	switch {
	case e.Name == "":
		return refuse(http.StatusBadRequest, "The event has no name")
	case utf8.RuneCountInString(e.Name) > maxEventName:
		return refuse(http.StatusBadRequest, "The event's name is over %d characters", maxEventName)
	case len(e.Channels) == 0:
		return refuse(http.StatusBadRequest, "The event has no channel: give channels, or channel")
	case len(e.Channels) > maxEventChannels:
		return refuse(http.StatusBadRequest, "An event goes to %d channels at most, not %d", maxEventChannels, len(e.Channels))
	case e.Data == nil:
		return refuse(http.StatusBadRequest, "The event has no data: give a string")
	case len(*e.Data) > maxEventData:
		return refuse(http.StatusRequestEntityTooLarge, "The data of this event is %d bytes, over the maximum of %d bytes", len(*e.Data), maxEventData)
	case e.SocketID != "" && !socketID.MatchString(e.SocketID):
		return refuse(http.StatusBadRequest, "Invalid socket_id: it is two numbers with a dot between them")
	}
	for _, name := range e.Channels {
		if !validChannel(name) {
			return refuse(http.StatusBadRequest, "Invalid channel name %.40q: use 1 to %d of the characters A-Z a-z 0-9 _ - = @ , . ;", name, maxChannelName)
		}
	}
	return nil
}
