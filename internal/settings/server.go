package settings

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"strings"
)

// Server describes the Channels server that delivers the events: Pusher, a self-hosted server, or the embedded one.
type Server struct {
	Name   string // for messages; visitors see some of them, so it never contains a host
	Source string // where the credentials are, such as "PUSHER_URL in .env"; "" for the embedded server

	Host               string // host[:port] of the HTTP API; "" for the embedded server
	TLS                bool   // whether to call the HTTP API over HTTPS; always true for Pusher
	AppID, Key, Secret string // AppID and Key have only letters, digits, - and _

	Cluster   string // Pusher cluster; "" for other servers
	SocketURL string // ws[s]://host[:port][/prefix] of a self-hosted server's WebSockets; "" for other servers
}

// Embedded reports whether the server runs inside this program, because there are no credentials.
func (s Server) Embedded() bool { return s.Host == "" }

// ConnectOrigins returns the origins to which the page connects, besides its own, separated by spaces. With Pusher,
// they include the origin of SockJS, which pusher-js uses if WebSockets are blocked.
func (s Server) ConnectOrigins() string {
	if s.Cluster != "" {
		return "wss://ws-" + s.Cluster + ".pusher.com https://sockjs-" + s.Cluster + ".pusher.com"
	}
	scheme, rest, _ := strings.Cut(s.SocketURL, "//")
	host, _, _ := strings.Cut(rest, "/")
	if host == "" || strings.ContainsAny(host, "[_") { // a policy can't name such a host, so allow all hosts
		return scheme
	}
	return scheme + "//" + host
}

// newServer returns the Channels server that valid settings describe, with credentials from source.
func newServer(values map[string]setting, source string) (Server, error) {
	if source == "" {
		return Server{Name: "the embedded Channels server", AppID: "1", Key: "local", Secret: rand.Text()}, nil
	}
	host, override, cluster := values["HOST"], values["PUSHER_CLUSTER"].value, values["CLUSTER"].value
	s := Server{
		Name:   "Pusher",
		Source: source,
		Host:   strings.ToLower(host.value),
		TLS:    true, // even if PUSHER_URL has http, as from old Heroku add-ons
		AppID:  values["ID"].value,
		Key:    values["KEY"].value,
		Secret: values["SECRET"].value,
	}
	name := hostOf(cmp.Or(s.Host, "api.pusher.com"))
	if !isPusher.matches(name) {
		s.Name, s.TLS = "the Channels server", isTrue.matches(values["SECURE"].value)
		scheme := "ws"
		if s.TLS {
			scheme = "wss"
		}
		part := socketURL.groups(cmp.Or(values["PUSHER_SOCKET_URL"].value, scheme+"://"+s.Host))
		s.SocketURL = strings.ToLower(part[1]+part[2]) + part[3]
		return s, nil
	}
	own := "" // the cluster that the host names
	if api := apiHost.groups(name); api != nil {
		own = cmp.Or(api[1], "mt1")
	}
	switch s.Cluster = cmp.Or(override, cluster, own); {
	case s.Cluster == "":
		return s, fmt.Errorf("%s names a Pusher host without a cluster: use api-CLUSTER.pusher.com (such as "+
			"api-eu.pusher.com), or set PUSHER_CLUSTER", host.place)
	case override == "" && cluster != "" && own != "" && own != cluster && host.value != "":
		return s, fmt.Errorf("%s names a different cluster than CLUSTER: remove HOST, which Pusher's clusters don't need, "+
			"or correct one of them", host.place)
	}
	s.Host = "api-" + s.Cluster + ".pusher.com"
	if override != "" {
		s.Source += " and PUSHER_CLUSTER"
	}
	return s, nil
}
