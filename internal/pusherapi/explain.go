package pusherapi

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
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

// Explain returns the HTTP status to respond with after a failed call by pusher-http-go (504 for a timeout, 500 if
// pusher-http-go itself refused the event, otherwise 502), and a few sentences that say why the call failed and how to
// fix it. Visitors to the page see this text, so it contains no host, URL, key or secret from the settings, and no text
// from the response. The argument server is a name, such as "Pusher". The cause is err for the log, without the URL that
// net/http adds, which contains the signature.
func Explain(err error, server string) (status int, text string, cause error) {
	cause = err
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		cause = wrapped.Err
	}
	call, ok := errors.AsType[*callError](err)
	switch status = http.StatusBadGateway; {
	case !ok:
		call, status, text = new(callError), http.StatusInternalServerError, explainLibrary(cause.Error())
	case call.status != 0:
		text = call.explainResponse()
	default:
		text = call.explain()
		if call.timedOut() {
			status = http.StatusGatewayTimeout
		}
	}
	text = call.fill(text, server)
	text = strings.ToUpper(text[:1]) + text[1:]
	if call.malformed != "" {
		text = "The environment variable " + call.malformed + " is not a valid URL: correct it, or use HOST:PORT. " + text
	}
	return status, text, cause
}

// fill replaces the placeholders in a text.
func (e *callError) fill(text, server string) string {
	proxy, via := "the proxy in "+e.proxy, ""
	if e.proxy != "" {
		via = " through " + proxy
	}
	refusal, _ := errors.AsType[proxyError](e.error)
	status := "status " + strconv.Itoa(cmp.Or(e.status, int(refusal)))
	return strings.NewReplacer("{server}", server, "{proxy}", proxy, "{via}", via, "{status}", status).Replace(text)
}

// In the texts below, {server} stands for the server's name, {proxy} for the proxy of the call, {via} for " through"
// that proxy if there is one, and {status} for the status with which the server or the proxy refused the call.
const (
	notAPI = "The response did not come from the HTTP API of a Channels server. Check the host and port, and whether to " +
		"use http or https."
	proxyPassword = "{proxy} requires a user name and a password ({status}), so the event was not sent. Set the variable " +
		"to USER:PASSWORD@HOST:PORT, or ask the proxy's administrator."
	tooLarge     = "The event is too large. Send at most 10 KB of data, or a link to the data."
	validChannel = "1 to 164 characters (A-Z a-z 0-9 _ - = @ , . ;)"
	serverLog    = "the server's log (for Pusher, status.pusher.com)"
)

// explainResponse returns the text for an unexpected response.
func (e *callError) explainResponse() string {
	says := func(phrases ...string) bool {
		return slices.ContainsFunc(phrases, func(phrase string) bool { return strings.Contains(e.body, phrase) })
	}
	switch s := e.status; {
	case s/100 == 2:
		return notAPI
	case s == 401 && says("timestamp expired"):
		return "This machine's clock shows " + time.Now().UTC().Format(http.TimeFormat) + "; it must be within 10 minutes of " +
			"the clock of {server}" + e.clock + ". Set this machine's clock: run \"sudo timedatectl set-ntp true\" on Linux, " +
			"or turn on \"Set time automatically\" on macOS and Windows. If the clock of a VM or of WSL drifted during sleep, restart the VM or WSL."
	case s == 401 && says("signature", "secret"): // before the next case: the body may contain auth_key
		return "{server} refused the signature: the secret is wrong, or belongs to another key. Copy the key and the " +
			"secret again from the same Channels app or, if that server is another pusher-sample, from the PUSHER_URL that it " +
			"printed last."
	case s <= 404 && says("auth_key", "unknown app"),
		s == 404 && (says("matching application") || says("the app ") && says("could not be found")):
		return "{server} does not know this app. Compare the key, the app ID and (for Pusher) the cluster with the App " +
			"Keys page on the Pusher dashboard, or with the server's configuration."
	case s == 400 && says("http request to an https server", "plain http"):
		return "{server} requires TLS on that port, so the event was not sent. Use https in PUSHER_URL, or SECURE = True " +
			"in app.cfg."
	case s == 407 && e.proxy != "":
		return proxyPassword
	case e.proxy != "":
		return "{server} or {proxy} responded with {status}, so it is not known whether the event was sent. Check that the " +
			"proxy may connect to {server}, and check " + serverLog + "."
	case s == 413:
		return tooLarge
	case s == 400, s == 422:
		return "{server} refused the event as invalid ({status}). For the channel name, use " + validChannel + "; for the " +
			"event name, use 1 to 200 characters, and don't begin it with \"pusher\"."
	case s == 429:
		return "{server} refused the event: this app is sending too many events. Wait a moment, then click more slowly."
	case s == 403 && !says("<html"): // HTML is not from the API, but perhaps from a firewall
		return "{server} refused the event ({status}): the app is disabled, over its quota, or not allowed to do this. " +
			"Check the app on the Pusher dashboard, or in the server's configuration. If its message quota is used up, wait " +
			"until it is renewed (daily with Pusher), or choose a larger plan."
	case s >= 500:
		return "{server} reported a server error ({status}), so it is not known whether the event was sent. Try again " +
			"later, or check " + serverLog + "."
	}
	return "{server} responded with {status} and did not accept the event. Check the host and port, whether to use http " +
		"or https, and the credentials."
}

// explain returns the text for a call without a complete response.
func (e *callError) explain() string {
	refusal, refused := errors.AsType[proxyError](e)
	op, _ := errors.AsType[*net.OpError](e)
	certificate, _ := errors.AsType[x509.CertificateInvalidError](e)
	switch {
	case strings.Contains(e.Error(), "too many open files"): // a DNS error has no code, only this text
		return "This program has too many files and connections open, so the event was not sent. Try again in a moment; if " +
			"it keeps happening, raise the limit on open files (ulimit -n)."
	case refusal == http.StatusProxyAuthRequired:
		return proxyPassword
	case refused:
		return "{proxy} did not connect to {server} ({status}), so the event was not sent. Check the host and port of the " +
			"server, ask the proxy's administrator to allow them, or exclude the host from the proxy with NO_PROXY."
	case op != nil && op.Op == "proxyconnect":
		return "No connection to {proxy} could be established, so the event was not sent. Check this environment variable, " +
			"whether to use http or https in it, and that the proxy is running."
	case e.timedOut() && !e.connected:
		return "{server} could not be reached in time{via}, so the event was not sent. Check the host and port, and this " +
			"machine's network, DNS and firewall."
	case e.timedOut():
		return "{server} did not respond in time{via}, so it is not known whether the event was sent. Try again later, or " +
			"check this machine's network and " + serverLog + "."
	case is[*net.DNSError](e):
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
	case is[x509.UnknownAuthorityError](e):
		return "The TLS certificate of {server} is signed by an unknown authority, so the event was not sent. Install the " +
			"authority's certificate or, on Linux, set SSL_CERT_FILE to the path of its file."
	case is[*tls.CertificateVerificationError](e):
		return "The TLS certificate of {server} is not valid for this host, so the event was not sent. Check the host."
	case is[tls.RecordHeaderError](e):
		return "{server} does not use TLS on that port, so the event was not sent. Use its TLS port, or use http in " +
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
	timeout, ok := errors.AsType[net.Error](e.error)
	return ok && timeout.Timeout()
}

// code reports whether the call's error is one of these system errors. On Windows, the constants in package syscall
// have invented values, so callers add the Windows error numbers.
func (e *callError) code(codes ...syscall.Errno) bool {
	errno, ok := errors.AsType[syscall.Errno](e)
	return ok && slices.Contains(codes, errno)
}

// is reports whether err is or wraps an E.
func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// explainLibrary returns the text for an error of pusher-http-go, which refused the event before the call.
func explainLibrary(problem string) string {
	switch {
	case strings.Contains(problem, "channels' names are invalid"):
		return "The channel name is not valid, so the event was not sent. Use " + validChannel + "."
	case strings.Contains(problem, "exceeded maximum size"):
		return tooLarge
	}
	return "The event was not sent: " + problem + ". Correct what main.go passes to pusher.Client: the channel, the " +
		"event, its data, or the socket ID."
}
