// Proves that Pusher's own libraries work with the embedded server, for triggering and
// for receiving.
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

// npm installs, once, the packages that most tests use, and returns their folder.
var npm = sync.OnceValues(func() (string, error) {
	return npmInstall("pusher@5.3.4", "pusher-js@8.6.0", "axe-core@4.14.1")
})

// npmInstall installs packages in a new folder, and returns it.
func npmInstall(packages ...string) (string, error) {
	dir, err := os.MkdirTemp(scratch, "npm")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second) // npm itself may wait for ever
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", append([]string{"install", "--no-save", "--no-audit", "--no-fund", "--prefix", dir}, packages...)...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w %s", err, out)
	}
	return filepath.Join(dir, "node_modules"), nil
}

func npmFolder(t testing.TB) string {
	t.Helper()
	dir, err := npm()
	if err != nil {
		skip(t, npmTool, err)
	}
	return dir
}

// npmFile returns a file of the installed packages.
func npmFile(t testing.TB, name string) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(npmFolder(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Pusher's libraries for Node: one triggers by HTTP, two receive.
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
