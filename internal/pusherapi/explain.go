package pusherapi

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cause returns the error of a failed call for the log, without the URL that net/http adds: it has the signature.
func Cause(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// Explain returns the HTTP status to respond with after a failed call by pusher-http-go (504 for a timeout, 500 if
// pusher-http-go itself refused the event, otherwise 502), and a few sentences that say why the call failed and how to
// fix it. Visitors to the page see this text, so it contains no host, URL, key or secret from the settings, and no text
// from the response. The argument server is a name, such as "Pusher".
func Explain(err error, server string) (status int, text string) {
	call, ok := errors.AsType[*callError](err)
	switch status = http.StatusBadGateway; {
	case !ok:
		call = new(callError)
		status, text = explainLibrary(Cause(err))
	case call.status != 0:
		text = call.explainStatus()
	default:
		text = call.explain()
		if call.timedOut() {
			status = http.StatusGatewayTimeout
		}
	}
	via := ""
	if call.proxy != "" {
		via = " through the proxy in " + call.proxy
	}
	text = strings.NewReplacer("{server}", server, "{proxy}", "the proxy in "+call.proxy, "{via}", via,
		"{status}", strconv.Itoa(call.status), "{clock}", call.clock()).Replace(text)
	text = strings.ToUpper(text[:1]) + text[1:]
	if call.malformed != "" && call.status == 0 && !call.connected {
		text = "The environment variable " + call.malformed + " is not a URL: set it to HOST:PORT, or remove it. " + text
	}
	return status, text
}

// In the texts below, {server} stands for the server's name, {proxy} for the proxy of the call, {via} for " through"
// that proxy if there is one, {status} for the status of the response, and {clock} for the result of callError.clock.
const (
	notAPI = "The response did not come from the HTTP API of a Channels server. Check the host and port, and whether to " +
		"use http or https."
	proxyPassword = "{proxy} requires a user name and a password (status 407), so the event was not sent. Set the " +
		"variable to USER:PASSWORD@HOST:PORT, or ask the proxy's administrator."
	tooLarge     = "The event is too large. Send at most 10 KB of data, or a link to the data."
	validChannel = "1 to 164 characters (A-Z a-z 0-9 _ - = @ , . ;)"
	serverLog    = "the server's log (for Pusher, status.pusher.com)"
)

// explainStatus returns the text for a response whose status is not 2xx.
func (e *callError) explainStatus() string {
	says := func(phrases ...string) bool {
		return slices.ContainsFunc(phrases, func(phrase string) bool { return strings.Contains(e.body, phrase) })
	}
	blamesApp := says("auth_key", "app key", "app_id", "unknown app")
	switch s := e.status; {
	case s == 401 && says("timestamp expired"):
		return "This machine's clock is {clock} the clock of {server}; at most 10 minutes are allowed. Set this machine's " +
			"clock: run \"sudo timedatectl set-ntp true\" on Linux, or turn on \"Set time automatically\" on macOS and " +
			"Windows. If the clock of a virtual machine or WSL drifted during sleep, restart it."
	case s == 401 && (says("signature") || says("secret")): // before blamesApp: the text may contain auth_key
		return "{server} refused the signature: the secret is wrong, or belongs to another key. Copy the key and the " +
			"secret again from the same Channels app or, if that server is another pusher-sample, from the PUSHER_URL that it " +
			"prints now."
	case s <= 404 && (blamesApp || s == 404 && says("the app ", "application")):
		return "{server} does not know this app. Compare the key, the app ID and (for Pusher) the cluster with the App " +
			"Keys page on the Pusher dashboard, or with the server's configuration."
	case s == 400 && says("http request to an https server", "plain http"):
		return "{server} requires TLS on that port, so the event was not sent. Use https in PUSHER_URL, or SECURE = True " +
			"in app.cfg."
	case s == 403 && says("quota"):
		return "{server} refused the event: the app's message quota is used up. Wait until it is renewed (daily with " +
			"Pusher), or choose a larger plan."
	case s == 413:
		return tooLarge
	case s == 400, s == 422:
		return "{server} refused the event as invalid (status {status}). For the channel name, use " + validChannel +
			"; for the event name, use 1 to 200 characters, and don't begin it with \"pusher\"."
	case s == 429:
		return "{server} refused the event: this app is sending too many events. Wait a moment, then click more slowly."
	case s == 407 && e.proxy != "":
		return proxyPassword
	case e.proxy != "" && !says("disabled"):
		return "{server} or {proxy} responded with status {status}, so it is not known whether the event was sent. Check " +
			"that the proxy may connect to {server}, and check " + serverLog + "."
	case s == 403:
		return "{server} refused the event (status 403): the app is disabled, over its quota, or not allowed to do this. " +
			"Check the app on the Pusher dashboard, or in the server's configuration."
	case s >= 500:
		return "{server} reported a server error (status {status}), so it is not known whether the event was sent. Try " +
			"again later, or check " + serverLog + "."
	}
	return "{server} responded with status {status} and did not accept the event. Check the host and port, whether to " +
		"use http or https, and the credentials."
}

// clock returns how this machine's clock differs from the server's Date header, such as "1h30m behind". If there is no
// header, or no difference, it returns "ahead of or behind".
func (e *callError) clock() string {
	ahead := time.Since(e.date).Round(time.Minute)
	amount := strings.TrimSuffix(ahead.Abs().String(), "0s") // such as 1h30m
	switch {
	case e.date.IsZero(), ahead == 0:
		return "ahead of or behind"
	case ahead < 0:
		return amount + " behind"
	default:
		return amount + " ahead of"
	}
}

// explain returns the text for a call without a complete response.
func (e *callError) explain() string {
	refusal, refused := errors.AsType[proxyError](e.error)
	op, _ := errors.AsType[*net.OpError](e.error)
	certificate, _ := errors.AsType[x509.CertificateInvalidError](e.error)
	switch {
	case e.code(10024), strings.Contains(e.Error(), "too many open files"): // a DNS error has no code, only this text
		return "This program has too many files and connections open, so the event was not sent. Try again in a moment; if " +
			"it keeps happening, raise the limit on open files (ulimit -n)."
	case refusal == http.StatusProxyAuthRequired:
		return proxyPassword
	case refused:
		return "{proxy} did not connect to {server} (status " + strconv.Itoa(int(refusal)) + "), so the event was not " +
			"sent. Check the host and port of the server, ask the proxy's administrator to allow them, or exclude the host " +
			"from the proxy with NO_PROXY."
	case op != nil && op.Op == "proxyconnect":
		return "{proxy} can't be reached, so the event was not sent. Check this environment variable, and that the proxy " +
			"is running."
	case e.timedOut() && !e.connected:
		return "{server} could not be reached in time{via}, so the event was not sent. Check the host and port, and this " +
			"machine's network, DNS and firewall."
	case e.timedOut():
		return "{server} did not respond in time{via}, so it is not known whether the event was sent. Try again later, or " +
			"check this machine's network and " + serverLog + "."
	case is[*net.DNSError](e.error):
		return "The host name of {server} could not be resolved, so the event was not sent. Check the spelling of the host " +
			"or cluster, and this machine's network and DNS."
	case e.code(syscall.ECONNREFUSED, 10061):
		return "{server} refused the connection, so the event was not sent. Check the host and port, and that the server " +
			"is running."
	case e.code(syscall.ENETUNREACH, 10051, syscall.EHOSTUNREACH, 10065):
		return "{server} can't be reached from this machine's network, so the event was not sent. Check the network, the " +
			"firewall and the proxy."
	case certificate.Reason == x509.Expired:
		return "The TLS certificate of {server} has expired or is not valid yet, so the event was not sent. Check this " +
			"machine's clock first; if it is right, the certificate must be renewed."
	case is[x509.UnknownAuthorityError](e.error):
		return "The TLS certificate of {server} is signed by an unknown authority, so the event was not sent. Install the " +
			"authority's certificate or, on Linux, set SSL_CERT_FILE to its file."
	case is[*tls.CertificateVerificationError](e.error):
		return "The TLS certificate of {server} is not valid for this host, so the event was not sent. Check the host."
	case is[tls.RecordHeaderError](e.error), errors.Is(e.error, http.ErrSchemeMismatch):
		return "{server} does not use TLS on that port, so the event was not sent. Use its TLS port, or set http in " +
			"PUSHER_URL or SECURE = False in app.cfg."
	case !e.connected:
		return "The connection to {server}{via} could not be established, so the event was not sent. Try again; if it " +
			"keeps happening, check this machine's network and proxy."
	case strings.Contains(e.Error(), "malformed HTTP"):
		return notAPI
	}
	return "The connection to {server}{via} was lost, so it is not known whether the event was sent. Try again; if it " +
		"keeps happening, check this machine's network and proxy."
}

func (e *callError) timedOut() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.error, &timeout) && timeout.Timeout()
}

// code reports whether the call's error is one of these system errors. On Windows, the constants in package syscall
// have invented values, so callers add the numbers of Windows.
func (e *callError) code(codes ...syscall.Errno) bool {
	errno, ok := errors.AsType[syscall.Errno](e.error)
	return ok && slices.Contains(codes, errno)
}

// is reports whether err is or wraps an E.
func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// explainLibrary returns the status and the text for an error of pusher-http-go itself: it refused the event before the
// call, or couldn't decode the response after it.
func explainLibrary(err error) (status int, text string) {
	says := func(phrase string) bool { return strings.Contains(err.Error(), phrase) }
	switch status = http.StatusInternalServerError; {
	case is[*json.MarshalerError](err): // may wrap the next ones
	case is[*json.SyntaxError](err), is[*json.UnmarshalTypeError](err):
		return http.StatusBadGateway, notAPI
	case says("channels' names are invalid"), says("non-valid name"):
		return status, "The channel name is not valid, so the event was not sent. Use " + validChannel + "."
	case says("exceeded maximum size"):
		return status, tooLarge
	}
	return status, "The event was not sent: " + err.Error() + ". Correct what main.go passes to pusher.Client: the " +
		"channel, the event, its data, or the socket ID."
}
