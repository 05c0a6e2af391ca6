// Tests the basics in Firefox: a click alerts two pages, one of them hidden, with pusher-js and
// with the fallback; and the page receives the server's close codes.
package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pusher-sample/internal/pushertest"
)

// Not parallel with other tests: the server waits only 2 s for a browser's close frame.
func TestFirefox(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a browser; skipped with -short")
	}
	path, err := exec.LookPath("firefox-esr")
	if err != nil {
		path, err = exec.LookPath("firefox")
	}
	if err != nil {
		skip(t, firefox, err)
	}
	library := filepath.Join(npmFolder(t), "pusher-js/dist/web/pusher.min.js")
	modules, err := npmInstall("puppeteer-core@24.43.1")
	if err != nil {
		skip(t, npmTool, err)
	}
	app := start(t, "RATE_LIMIT=0")
	ctx, cancel := context.WithTimeout(t.Context(), 3*pushertest.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/firefox.js")
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules, "FIREFOX="+path, "URL="+app.url,
		"IMPATIENT="+startImpatient(t), "MESSAGE="+sampleEvent(t).message, "PUSHER_JS="+library)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all alerted\nall closed as expected\n4201 true\n4009 true") {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
