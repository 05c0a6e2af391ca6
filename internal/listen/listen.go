// Package listen checks the address to listen on, explains why listening failed, and
// returns the URLs of the page.
package listen

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Windows error codes. On Windows, syscall.EACCES and syscall.EADDRINUSE have invented
// values that no error has.
const (
	wsaAccess    = syscall.Errno(10013)
	wsaAddrInUse = syscall.Errno(10048)
)

// CheckAddr returns an error unless addr is a HOST:PORT to listen on. HOST is empty
// for all network interfaces; PORT is a number.
func CheckAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("must be HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:5001, or :5000 for all network interfaces")
	}
	return nil
}

// Explain returns an error that says why [net.Listen] failed for addr, and what to do.
func Explain(err error, addr string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, wsaAddrInUse):
		return fmt.Errorf("%s is already in use: stop that program, or choose another address with -addr %s", addr, NextAddr(addr))
	case errors.Is(err, syscall.EACCES), errors.Is(err, wsaAccess):
		return fmt.Errorf("no permission to listen on %s: choose another port with -addr, such as -addr 127.0.0.1:8080", addr)
	default:
		return fmt.Errorf("can't listen on %s (%w): choose an address of this machine with -addr, such as -addr 127.0.0.1:5001", addr, err)
	}
}

// NextAddr returns addr with the next higher port.
func NextAddr(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(n%65535+1))
}

// URLs returns the page's URL for this machine and, if at is on all interfaces, those for
// other devices on the network. None of them says localhost, because AirPlay may listen
// there on macOS.
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
