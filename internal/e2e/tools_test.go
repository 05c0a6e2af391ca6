// Reports how many tests were skipped because a tool is missing, and which package to install.
package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tool is a program that some tests need besides Go, with its Debian package.
type tool struct{ name, debian string }

var (
	chromium = tool{"Chromium", "chromium"}
	firefox  = tool{"Firefox", "firefox-esr"}
	npmTool  = tool{"npm or its registry", "npm"}
	foreman  = tool{"foreman", "ruby-foreman"}
	nginx    = tool{"nginx", "nginx"}
)

// skipped holds the names of the skipped tests by reason.
var (
	skippedMu sync.Mutex
	skipped   = map[string]map[string]bool{}
)

// skip skips a test whose tool is missing. With CI=true, where every tool must be installed,
// the test fails instead.
func skip(t testing.TB, missing tool, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing (Debian package %s): %v", missing.name, missing.debian, err)
	}
	cause, _, _ := strings.Cut(err.Error(), "\n") // npm's errors are long
	reason := fmt.Sprintf("%s is missing (Debian package %s): %s", missing.name, missing.debian, cause)
	test, _, _ := strings.Cut(t.Name(), "/")
	skippedMu.Lock()
	defer skippedMu.Unlock()
	if skipped[reason] == nil {
		skipped[reason] = map[string]bool{}
	}
	skipped[reason][test] = true
	t.Skip(reason)
}

// reportSkipped prints the numbers of skipped tests, even without -v.
func reportSkipped() {
	if len(skipped) == 0 {
		return
	}
	summary := "\nTests skipped in internal/e2e:\n"
	for _, reason := range slices.Sorted(maps.Keys(skipped)) {
		summary += fmt.Sprintf("%4d: %s\n", len(skipped[reason]), reason)
	}

	// Without -v, go test hides the output of a package that passes, so write directly to the
	// stderr of go test or, on systems without /proc, to the terminal.
	parent := fmt.Sprintf("/proc/%d/fd/", os.Getppid())
	stdout, _ := os.Stat(parent + "1")
	for _, name := range []string{parent + "2", "/dev/tty"} {
		stderr, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			continue
		}
		defer stderr.Close()
		info, err := stderr.Stat()
		if err != nil || info.Mode().IsRegular() && os.SameFile(info, stdout) {
			continue // go test would overwrite the summary
		}
		fmt.Fprintln(stderr, summary)
		return
	}
	fmt.Println(summary)
}
