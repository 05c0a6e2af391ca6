// Tests that Pusher's own libraries can trigger and receive events through the embedded server.
package e2e

import (
	"context"
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

// npm installs the packages that most tests use, once, and returns their folder.
var npm = sync.OnceValues(func() (string, error) {
	return npmInstall("pusher@5.3.4", "pusher-js@8.6.0", "axe-core@4.14.1")
})

// npmInstall installs packages in a new folder, and returns it.
func npmInstall(packages ...string) (string, error) {
	dir, err := os.MkdirTemp(scratch, "npm")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second) // npm itself can wait forever
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", append([]string{"install", "--no-save", "--no-audit", "--no-fund", "--prefix", dir}, packages...)...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w %s", err, out)
	}
	return filepath.Join(dir, "node_modules"), nil
}

// npmFolder returns the folder of the packages that most tests use.
func npmFolder(t testing.TB) string {
	t.Helper()
	dir, err := npm()
	if err != nil {
		skip(t, npmTool, err)
	}
	return dir
}

// npmFile returns the contents of a file in npmFolder.
func npmFile(t testing.TB, name string) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(npmFolder(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// One Node client triggers events over HTTP, and two pusher-js clients receive them.
func TestNodeClients(t *testing.T) {
	t.Parallel()
	modules := npmFolder(t)
	app := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), pushertest.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/node-clients.js")
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules, "PUSHER_URL="+app.pusherURL())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "all received") {
		t.Errorf("%v: %s", err, out)
	}
}
