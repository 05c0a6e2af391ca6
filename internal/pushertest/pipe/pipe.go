// Package pipe provides a listener whose connections are in memory, so that servers can be
// tested on the clock of testing/synctest.
package pipe

import "net"

// Listener is a net.Listener. Make it with make, as a channel without a buffer.
type Listener chan net.Conn

// Dial connects to the listener and returns the client's end.
func (l Listener) Dial() net.Conn {
	client, server := net.Pipe()
	l <- server
	return client
}

// Accept waits for the next Dial.
func (l Listener) Accept() (net.Conn, error) {
	if conn, ok := <-l; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

// Close ends Accept. Dial must not be called afterwards.
func (l Listener) Close() error {
	close(l)
	return nil
}

// Addr returns an empty address.
func (l Listener) Addr() net.Addr { return &net.TCPAddr{} }
