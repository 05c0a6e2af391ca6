// Runs the tools that some tests need besides Go: npm's packages and nginx. If a tool is missing, its tests are
// skipped, and a summary says which package to install.
package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
)

// A tool's name, with its Debian package.
const (
	chromium = "Chromium (Debian package chromium)"
	firefox  = "Firefox (Debian package firefox-esr)"
	npm      = "npm or its registry (Debian package npm)"
	foreman  = "foreman (Debian package ruby-foreman)"
	nginx    = "nginx (Debian package nginx)"
)

var skipped sync.Map // reasons why tests were skipped

// skip skips a test whose tool is missing. With CI=true, where every tool must be installed, the test fails instead.
func skip(t testing.TB, tool string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: %v", tool, err)
	}
	cause, _, _ := strings.Cut(err.Error(), "\n") // npm's errors are long
	reason := fmt.Sprintf("%s is missing: %s", tool, cause)
	skipped.Store(reason, true)
	t.Skip(reason)
}

// reportSkipped prints why tests were skipped. Without -v, go test hides the output of a package that passes, so it
// writes to the terminal or, without one, to the stderr of go test.
func reportSkipped() {
	out := os.Stdout
	for _, name := range []string{fmt.Sprintf("/proc/%d/fd/2", os.Getppid()), "/dev/tty"} {
		if file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0); err == nil {
			out = file
		}
	}
	for reason := range skipped.Range {
		fmt.Fprintln(out, "internal/e2e: tests were skipped:", reason)
	}
}

// lookPath returns the path of the first program that is installed.
func lookPath(t testing.TB, tool string, names ...string) string {
	t.Helper()
	var path string
	var err error
	for _, name := range names {
		if path, err = exec.LookPath(name); err == nil {
			return path
		}
	}
	skip(t, tool, err)
	return ""
}

// npmPackages are installed once, and kept in the user's cache.
var npmPackages = []string{"axe-core@4.14.1", "puppeteer-core@24.43.1", "pusher@5.3.4", "pusher-js@8.6.0"}

var npmInstall = sync.OnceValues(func() (modules string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = scratch
	}
	dir := filepath.Join(cache, "pusher-sample-tests", strings.Join(npmPackages, "+"))
	modules = filepath.Join(dir, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules, nil
	}
	temp := fmt.Sprintf("%s.%d", dir, os.Getpid())
	defer os.RemoveAll(temp)
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second) // npm itself can wait forever
	defer cancel()
	args := []string{"install", "--no-save", "--no-audit", "--no-fund", "--prefix", temp}
	cmd := exec.CommandContext(ctx, "npm", append(args, npmPackages...)...)
	cmd.Dir, cmd.WaitDelay = temp, time.Second
	endWithTests(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w %s", err, out)
	}
	os.Rename(temp, dir) // fails if another run of the tests was faster
	_, err = os.Stat(modules)
	return modules, err
})

// npmModules returns the folder of the installed packages.
func npmModules(t testing.TB) string {
	t.Helper()
	modules, err := npmInstall()
	if err != nil {
		skip(t, npm, err)
	}
	return modules
}

// npmFile returns the contents of a file of an installed package.
func npmFile(t testing.TB, name string) string {
	t.Helper()
	file := must(os.ReadFile(filepath.Join(npmModules(t), name)))
	return string(file)
}

// node runs a script in testdata, whose output must contain want. Its stdin ends when it must stop.
func node(t testing.TB, script, want string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*pushertest.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join("testdata", script))
	cmd.Env = append(os.Environ(), append(env, "NODE_PATH="+npmModules(t))...)
	stdin := must(cmd.StdinPipe())
	cmd.Cancel, cmd.WaitDelay = stdin.Close, 5*time.Second
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s: %v: %s", script, err, out)
	}
}

// freeAddress returns an address on which nothing listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	return listener.Addr().String()
}

// startNginx starts nginx with a site, which must listen on address, and which may use the files certificate and key,
// with the tests' certificate.
func startNginx(t testing.TB, site, address string) {
	t.Helper()
	path := lookPath(t, nginx, "nginx", "/usr/sbin/nginx") // often not in PATH
	certificate := must(pushertest.Certificate())
	key := must(x509.MarshalPKCS8PrivateKey(certificate.PrivateKey))
	// A minimal replacement for Debian's nginx.conf, with one process and one folder.
	config := "daemon off; master_process off; pid nginx.pid; error_log stderr; events {} http { access_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += kind + "_temp_path temp;\n"
	}
	dir := t.TempDir()
	write := func(name string, text []byte) error { return os.WriteFile(filepath.Join(dir, name), text, 0o600) }
	if err := errors.Join(
		write("certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})),
		write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		write("nginx.conf", []byte(config+site+"}\n")),
	); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(path, "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	cmd.Stderr = &log
	endWithTests(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("the log of nginx: %s", &log)
		}
	})
	pushertest.WaitFor(t, "nginx to listen", func() bool { return accepts(address) })
}
