// Package pipe provides an in-memory listener, so that servers can be tested with the fake clock of testing/synctest.
package pipe

import "net"

// Listener is a net.Listener. Create one with make(Listener).
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

// Close makes Accept return net.ErrClosed. Don't call Dial after Close.
func (l Listener) Close() error {
	close(l)
	return nil
}

// Addr returns an empty address.
func (l Listener) Addr() net.Addr { return &net.TCPAddr{} }
