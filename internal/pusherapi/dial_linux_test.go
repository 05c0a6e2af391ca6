package pusherapi

import (
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// A dial to a host that drops packets times out before its call does, so the error can say that
// the event was not sent. On Linux, a listener drops packets while its queue is full.
func TestDialTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 3 s")
	}
	t.Parallel()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	filler, err := net.Dial("tcp", listener.Addr().String()) // takes the only place in the queue
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()

	start := time.Now()
	err = newClient("http://"+listener.Addr().String(), newTransport()).Trigger("c", "e", "d")
	if took := time.Since(start); took > callTimeout-time.Second {
		t.Errorf("the call took %v", took)
	}
	wantExplained(t, err, http.StatusGatewayTimeout, "could not be reached in time, so the event was not sent")
}
