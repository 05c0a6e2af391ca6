// Package listen explains why the app can't listen on an address, and returns the URLs of the page.
package listen

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Explain returns an error that says why [net.Listen] failed for addr and how to fix it.
func Explain(err error, addr string) error {
	// The numbers are Windows error codes; there, the constants in syscall have invented values.
	switch errno, _ := errors.AsType[syscall.Errno](err); errno {
	case syscall.EADDRINUSE, 10048:
		return fmt.Errorf("%s is already in use by another program: stop it, or choose another address with -addr %s", addr, NextAddr(addr))
	case syscall.EACCES, 10013:
		return fmt.Errorf("no permission to listen on %s: choose another port with -addr, such as -addr 127.0.0.1:8080", addr)
	default:
		return fmt.Errorf("can't listen on %s (%w): set -addr to HOST:PORT with an address of this machine, such as 127.0.0.1:5001, or to :5000 for all network interfaces", addr, err)
	}
}

// NextAddr returns addr with the next port (1 after 65535). The port may be a name, such as http.
func NextAddr(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := net.LookupPort("tcp", port)
	return net.JoinHostPort(host, strconv.Itoa(n%65535+1))
}

// URLs returns the URL of the page for this machine and, if at is an unspecified address, those for
// other devices (IPv4 only). No URL has localhost: on macOS, AirPlay may listen on [::1]:5000.
func URLs(at *net.TCPAddr) (local string, network []string) {
	toURL := func(ip net.IP) string {
		return "http://" + net.JoinHostPort(ip.String(), strconv.Itoa(at.Port)) + "/"
	}
	if !at.IP.IsUnspecified() {
		return toURL(at.IP), nil
	}
	addrs, _ := net.InterfaceAddrs()
	for _, addr := range addrs {
		if ip, _, err := net.ParseCIDR(addr.String()); err == nil && ip.To4() != nil && ip.IsGlobalUnicast() {
			network = append(network, toURL(ip))
		}
	}
	return toURL(net.IPv4(127, 0, 0, 1)), network
}
