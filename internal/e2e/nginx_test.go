// Helpers that run nginx.
package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pusher-sample/internal/pushertest"
)

// freeAddress returns an address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// startNginx starts nginx with a site, which must listen on address, and which may use the files certificate and key,
// with the tests' certificate.
func startNginx(t *testing.T, site, address string) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nginx") // often not in PATH
	}
	if err != nil {
		skip(t, nginx, err)
	}
	dir := t.TempDir()
	certificate, err := pushertest.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	// A minimal replacement for Debian's nginx.conf, with one process and one folder.
	config := "daemon off; master_process off; pid nginx.pid; error_log stderr; events {} http { access_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += kind + "_temp_path temp;\n"
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "certificate"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600),
		os.WriteFile(filepath.Join(dir, "key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
		os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config+site+"}\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}

	var log bytes.Buffer
	cmd := exec.Command(path, "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan bool)
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the log of nginx: %s", &log)
		}
	})
	pushertest.WaitFor(t, "nginx to listen", func() bool {
		select {
		case <-ended:
			t.Fatal("nginx did not start")
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}
