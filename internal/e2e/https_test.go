// Tests that events reach a Channels server over HTTPS: nginx with HTTP/2 and without, directly and through a proxy,
// under Pusher's host names.
package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pusher-sample/internal/pushertest"
)

func TestHTTPS(t *testing.T) {
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pushertest.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(t.TempDir(), "certificate")
	if err := os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprint("HTTP/2 ", http2), func(t *testing.T) {
			upstream, address := pushertest.NewServer(t), freeAddress(t)
			protocol, major := "", 1
			if http2 {
				protocol, major = " http2", 2
			}
			startNginx(t, fmt.Sprintf(`server {
				listen %s ssl%s;
				ssl_certificate certificate;
				ssl_certificate_key key;
				location / { proxy_pass %s; }
			}`, address, protocol, upstream.HTTP.URL), address)
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport}).Get("https://" + address + "/")
			if err != nil || resp.ProtoMajor != major {
				t.Fatalf("nginx responded with %v %v, want HTTP/%d", resp, err, major)
			}
			resp.Body.Close()

			proxy := startProxy(t, address)
			for _, env := range [][]string{
				{"PUSHER_URL=https://testkey:testsecret@" + address + "/apps/1234"},
				{"PUSHER_URL=https://testkey:testsecret@api-eu.pusher.com/apps/1234", "HTTPS_PROXY=" + proxy},
			} {
				before := len(upstream.Events())
				cmd := exec.Command(binary, "trigger")
				cmd.Dir, cmd.Env = t.TempDir(), append(env, "SSL_CERT_FILE="+trusted)
				if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), " accepted the event ") {
					t.Errorf("%s trigger: %v %s", env, err, out)
				}
				app := start(t, cmd.Env...)
				for range 3 {
					if resp, text := pushertest.Request(t, "POST", app.url+"/pusher"); resp.StatusCode != 200 {
						t.Errorf("%s: %d %s", env, resp.StatusCode, text)
					}
				}
				if n := len(upstream.Events()) - before; n != 4 {
					t.Errorf("%s: %d events, want 4", env, n)
				}
			}
		})
	}
}
