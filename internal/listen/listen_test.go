package listen

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// The error for a malformed address shows a valid one.
func TestMalformedAddress(t *testing.T) {
	for _, addr := range []string{"5001", "localhost", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:word", "::1:5000", "http://localhost:5000", "127.0.0.1:5000/"} {
		listener, err := net.Listen("tcp", addr)
		if err == nil {
			listener.Close()
			t.Errorf("listening on %s succeeded, want an error", addr)
			continue
		}
		text := Explain(err, addr).Error()
		if !strings.HasPrefix(text, "can't listen on "+addr+" (") || !strings.HasSuffix(text, "set -addr to HOST:PORT with an address of this machine, such as 127.0.0.1:5001, or to :5000 for all network interfaces") {
			t.Errorf("%s: %s", addr, text)
		}
	}
}

// Explain explains a real error for an address in use, and constructed errors for other causes.
func TestErrors(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	addr := first.Addr().String()
	_, err = net.Listen("tcp", addr)
	err = Explain(err, addr)
	if want := addr + " is already in use by another program: stop it, or choose another address with -addr " + NextAddr(addr); err.Error() != want {
		t.Errorf("in use: got %v, want %s", err, want)
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{syscall.EADDRINUSE, ":80 is already in use"},
		{syscall.Errno(10048), ":80 is already in use"}, // WSAEADDRINUSE
		{syscall.EACCES, "no permission to listen on :80: choose another port"},
		{syscall.Errno(10013), "no permission to listen on :80: choose another port"}, // WSAEACCES
		{syscall.EADDRNOTAVAIL, "can't listen on :80 ("},
		{errors.New("lookup nohost: no such host"), "can't listen on :80 ("},
	} {
		err := Explain(&net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", tt.err)}, ":80")
		if !strings.HasPrefix(err.Error(), tt.want) || !strings.Contains(err.Error(), "-addr ") {
			t.Errorf("%v: got %v, want %s", tt.err, err, tt.want)
		}
	}
}

func TestNextAddr(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:5000": "127.0.0.1:5001", ":5000": ":5001", "[::1]:5001": "[::1]:5002", ":65535": ":1", "127.0.0.1:http": "127.0.0.1:81"} {
		if got := NextAddr(addr); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestURLs(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:5000": "http://127.0.0.1:5000/",
		"[::1]:5000":     "http://[::1]:5000/",
		"192.0.2.1:80":   "http://192.0.2.1:80/",
		"[::]:5000":      "http://127.0.0.1:5000/",
		"0.0.0.0:5000":   "http://127.0.0.1:5000/",
	} {
		at, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		local, network := URLs(at)
		if local != want {
			t.Errorf("%s: got %s, want %s", addr, local, want)
		}
		for _, url := range network {
			t.Log(addr, url)
			if !at.IP.IsUnspecified() || strings.Contains(url, "/127.") || strings.Contains(url, "/169.254.") || strings.Contains(url, "[") {
				t.Errorf("%s: other devices can't open %s", addr, url)
			}
		}
	}
}
