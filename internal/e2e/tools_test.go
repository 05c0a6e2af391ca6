// Runs the tools that some tests need besides Go: npm's packages and nginx. If a tool is missing, its tests are
// skipped, and a summary says which package to install.
package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
)

var skipped sync.Map // missing tools

// skip skips a test whose tool is missing. With CI=true, where every tool must be installed, the test fails instead.
func skip(t testing.TB, tool string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: %v", tool, err)
	}
	cause, _, _ := strings.Cut(err.Error(), "\n") // npm's errors are long
	if _, told := skipped.LoadOrStore(tool, true); !told {
		// Without -v, go test hides the output of a package that passes, but not what is written to its own stderr.
		stderr, _ := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", os.Getppid()), os.O_WRONLY|os.O_APPEND, 0)
		fmt.Fprintf(stderr, "internal/e2e: tests are skipped: %s is missing: %s\n", tool, cause)
	}
	t.Skipf("%s is missing: %s", tool, cause)
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
		skip(t, "npm or its registry (Debian package npm)", err)
	}
	return modules
}

// npmFile returns the contents of a file of an installed package.
func npmFile(t testing.TB, name string) string {
	t.Helper()
	return string(must(os.ReadFile(filepath.Join(npmModules(t), name))))
}

// node runs a script in testdata, whose output must contain want. Its stdin ends when it must stop.
func node(t testing.TB, script, want string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*pushertest.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join("testdata", script))
	cmd.Env = append(os.Environ(), append(env, "NODE_PATH="+npmModules(t))...)
	stdin := must(cmd.StdinPipe())
	cmd.Cancel, cmd.WaitDelay = stdin.Close, 5*time.Second
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%s: %v: %s", script, err, out)
	}
}

// certificateFile returns the path of a file with the tests' certificate and its private key.
func certificateFile(t testing.TB) string {
	t.Helper()
	c := pushertest.Certificate()
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(
		&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(c.PrivateKey))})...)
	file := filepath.Join(t.TempDir(), "certificate.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startNginx starts nginx with a site.
func startNginx(t testing.TB, site string) {
	t.Helper()
	path := lookPath(t, "nginx (Debian package nginx)", "nginx", "/usr/sbin/nginx") // often not in PATH
	// A minimal replacement for Debian's nginx.conf, with one process and one folder.
	config := "daemon off; master_process off; pid nginx.pid; error_log stderr notice; events {} http { access_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += kind + "_temp_path temp;\n"
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config+site+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-p", dir, "-c", "nginx.conf", "-e", "stderr")
	startProcess(t, cmd).printed("event method", 1) // it then listens
}
