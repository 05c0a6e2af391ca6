// Package pusherapi makes calls to the HTTP API of Pusher Channels safe and its
// failures plain. Transport bounds the calls that pusher-http-go makes; Explain
// says in a sentence why one failed and what to do.
package pusherapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	// Timeout bounds a whole call: connecting, sending, and reading the answer.
	Timeout = 5 * time.Second

	maxAnswer = 64 << 10 // bytes; an API answer is a few
)

// Refusal is an answer of the API other than 2xx.
type Refusal struct {
	Status int       // HTTP status code
	Body   string    // as sent, at most 64 KiB; not for display
	Date   time.Time // the server's clock, zero if it did not say
}

func (e *Refusal) Error() string { return fmt.Sprintf("the API answered with status %d", e.Status) }

// errTooLong is an answer that no API gives.
var errTooLong = errors.New("the answer is too long")

// Transport makes each call through next end within Timeout, answer and all, and
// turns a status other than 2xx into a *Refusal, which reaches the caller of
// pusher-http-go whole. Without it pusher-http-go waits and reads without bound
// and gives refusals as text.
func Transport(next http.RoundTripper) http.RoundTripper { return transport{next} }

type transport struct{ next http.RoundTripper }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), Timeout)
	resp, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &answer{resp.Body, maxAnswer, cancel}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	date, _ := http.ParseTime(resp.Header.Get("Date"))
	return nil, &Refusal{Status: resp.StatusCode, Body: string(body), Date: date}
}

// answer is the body of an answer, up to a length, and until its call's time is over.
type answer struct {
	body   io.ReadCloser
	left   int // bytes that may still come
	cancel context.CancelFunc
}

func (a *answer) Read(b []byte) (int, error) {
	n, err := a.body.Read(b)
	if a.left -= n; a.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

func (a *answer) Close() error {
	a.cancel()
	return a.body.Close()
}

// InProcess hands requests to a handler of this process, so that an embedded
// server is called by the same client, in the same words, as a remote one.
func InProcess(handler http.Handler) http.RoundTripper { return inProcess{handler} }

type inProcess struct{ handler http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	defer r.Body.Close()
	w := &response{header: make(http.Header), status: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	return &http.Response{
		StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body), Request: r,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(w.body.Len()),
	}, nil
}

// response is an http.ResponseWriter that keeps what is written.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *response) Header() http.Header         { return w.header }
func (w *response) WriteHeader(status int)      { w.status = status }
func (w *response) Write(b []byte) (int, error) { return w.body.Write(b) }

// Explain says why a call of pusher-http-go failed, in one or two sentences for
// whoever runs the app, and with which HTTP status to pass that on: 502 where
// the server refused or is broken, 504 where it did not answer in time. The
// sentences hold nothing that the server sent, nor URLs, keys or secrets. Server
// names it: "Pusher", or the host of another Channels server.
func Explain(err error, server string) (status int, text string) {
	var (
		refusal *Refusal
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &refusal):
		return http.StatusBadGateway, explainRefusal(refusal, server)
	case errors.As(err, &timeout) && timeout.Timeout():
		return http.StatusGatewayTimeout, server + " did not answer in time, so it is not known whether the event was sent. Try again; if it goes on, check this machine's network" + statusPage(server) + "."
	default:
		return http.StatusBadGateway, explainFailure(err, server)
	}
}

func explainRefusal(e *Refusal, server string) string {
	says := func(words ...string) bool {
		body := strings.ToLower(e.Body)
		for _, w := range words {
			if !strings.Contains(body, w) {
				return false
			}
		}
		return true
	}
	switch {
	case says("timestamp expired"):
		return explainClock(e, server)
	case says("signature"): // asked before auth_key, which the text to sign holds too
		return explainSecret(server)
	case says("auth_key"), says("app key"), says("app_id"), says("unknown app"), e.Status == http.StatusNotFound:
		if server == "Pusher" {
			return "Pusher does not know this app: the key, the app ID or the cluster is wrong. Compare all three with the App Keys page of your app on the Pusher dashboard."
		}
		return server + " does not know this app: the key or the app ID is wrong. Compare both with the app's entry in that server's configuration."
	case e.Status == http.StatusUnauthorized:
		return explainSecret(server)
	case e.Status == http.StatusForbidden && says("quota"):
		return server + " refused the event: the app's message quota is used up. Wait until it is renewed (daily at Pusher), or move to a larger plan."
	case e.Status == http.StatusForbidden && says("disabled"):
		return server + " refused the event: this app is disabled. Enable it where it is configured, at Pusher in the app's settings on the dashboard."
	case e.Status == http.StatusForbidden:
		return server + " refused the event: the app is disabled, over its quota, or not allowed to do this. Look at the app where it is configured, at Pusher on the dashboard."
	case e.Status == http.StatusRequestEntityTooLarge:
		return "The event is too large: " + server + " takes 10 KB of data at most. Send less, or send a link to it."
	case e.Status == http.StatusTooManyRequests:
		return server + " says that this app sends too many events at once. Wait a little, and click more slowly."
	case e.Status >= 500:
		return fmt.Sprintf("%s has trouble of its own (it answered with status %d), so it is not known whether the event was sent. Try again in a while%s.", server, e.Status, statusPage(server))
	case says("http request to an https server"):
		return server + " speaks TLS at that port, so the event was not sent. Write https instead of http."
	case e.Status >= 300 && e.Status < 400:
		return fmt.Sprintf("The API's address is wrong: %s answered with a redirect (status %d). Check host, port and http or https.", server, e.Status)
	default:
		return fmt.Sprintf("%s refused the event (it answered with status %d). Check the credentials, and that the address is a Channels server's.", server, e.Status)
	}
}

func explainSecret(server string) string {
	return server + " refused the signature: the secret is wrong, or belongs to another key. Copy key and secret again, together, from where the app is configured."
}

func statusPage(server string) string {
	if server == "Pusher" {
		return " and status.pusher.com"
	}
	return " and the server"
}

var timestamps = regexp.MustCompile(`(?i)given timestamp \(([^)]{1,40})\).{1,40}server time \(([^)]{1,40})\)`)

// explainClock explains the trap of this sample's ancestors: a clock that is off
// by more than the 600 s that a signature lives.
func explainClock(e *Refusal, server string) string {
	ahead, known := clockAhead(e, time.Now())
	how := "ahead of or behind"
	if known {
		how = spell(ahead.Abs())
		if ahead > 0 {
			how += " ahead of"
		} else {
			how += " behind"
		}
	}
	return fmt.Sprintf("This machine's clock is %s the clock of %s, and 10 minutes at most are allowed. Set it: \"sudo timedatectl set-ntp true\" on Linux, \"set time automatically\" in the settings of macOS and Windows; a virtual machine, container or WSL that slept takes its host's time when restarted.", how, server)
}

// clockAhead is by how much this machine's clock is ahead: by the two times that
// the answer names, or else by the answer's Date header.
func clockAhead(e *Refusal, now time.Time) (time.Duration, bool) {
	if m := timestamps.FindStringSubmatch(e.Body); m != nil {
		given, err1 := time.Parse(time.RFC3339, m[1])
		server, err2 := time.Parse(time.RFC3339, m[2])
		if err1 == nil && err2 == nil {
			return given.Sub(server), true
		}
	}
	return now.Sub(e.Date), !e.Date.IsZero()
}

// spell is a duration in its two largest units.
func spell(d time.Duration) string {
	units := []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}}
	var parts []string
	for _, u := range units {
		n := d / u.size
		d -= n * u.size
		switch {
		case n == 1:
			parts = append(parts, "1 "+u.name)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, u.name))
		case len(parts) == 1:
			return parts[0]
		}
		if len(parts) == 2 {
			break
		}
	}
	if len(parts) == 0 {
		return "less than a second"
	}
	return strings.Join(parts, " and ")
}

// explainFailure explains a call that brought no answer.
func explainFailure(err error, server string) string {
	var (
		dns         *net.DNSError
		unknownCA   x509.UnknownAuthorityError
		wrongName   x509.HostnameError
		invalidCert x509.CertificateInvalidError
		badCert     *tls.CertificateVerificationError
		notTLS      tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &dns):
		return "The host name of " + server + " could not be looked up, so the event was not sent. Check the spelling of the host or cluster, and this machine's network and DNS."
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Nothing answers at the address of " + server + ", so the event was not sent. Check host and port, and that the server runs."
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return server + " can't be reached from this machine's network, so the event was not sent. Check the network, its firewall and proxy."
	case errors.As(err, &invalidCert) && invalidCert.Reason == x509.Expired:
		return "The TLS certificate of " + server + " is not valid at the present time, so the event was not sent. Check this machine's clock first; if it is right, the certificate has to be renewed."
	case errors.As(err, &wrongName):
		return "The TLS certificate of " + server + " is for another host name, so the event was not sent. Check the host."
	case errors.As(err, &unknownCA):
		return "The TLS certificate of " + server + " is signed by nobody whom this machine trusts, so the event was not sent. Install that authority's certificate here, or point SSL_CERT_FILE to it."
	case errors.As(err, &badCert):
		return "The TLS certificate of " + server + " is not valid, so the event was not sent. Check the host, and this machine's clock."
	case errors.As(err, &notTLS), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return server + " does not speak TLS at that port, so the event was not sent. Write http instead of https, or use the port that has TLS."
	case errors.Is(err, errTooLong), strings.Contains(err.Error(), "malformed HTTP"), strings.Contains(err.Error(), "invalid character"):
		return "What answers at the address of " + server + " is not the HTTP API of a Channels server. Check host, port and http or https."
	case strings.Contains(err.Error(), "channels' names are invalid"):
		return "The channel name is not valid. Use 1 to 164 of the characters A-Z a-z 0-9 _ - = @ , . ;"
	case strings.Contains(err.Error(), "exceeded maximum size"):
		return "The event is too large: 10 KB of data are the most. Send less, or send a link to it."
	case strings.Contains(err.Error(), "encrypted channel"), strings.Contains(err.Error(), "encryption"):
		return "A private-encrypted- channel needs a master key, which this app has not. Use another channel."
	default:
		return "The connection to " + server + " broke, so it is not known whether the event was sent. Try again; if it goes on, check this machine's network and proxy."
	}
}
