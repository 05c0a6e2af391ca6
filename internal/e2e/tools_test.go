// Says how many tests were skipped because a tool is missing, and what to install.
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

// tool is what some tests need besides Go, and the Debian package that has it.
type tool struct{ name, debian string }

var (
	chromium = tool{"Chromium", "chromium"}
	firefox  = tool{"Firefox", "firefox-esr"}
	npmTool  = tool{"npm or its registry", "npm"}
	foreman  = tool{"foreman", "ruby-foreman"}
	nginx    = tool{"nginx", "nginx"}
)

// skipped has the names of the tests that were skipped, by the reason.
var (
	skippedMu sync.Mutex
	skipped   = map[string]map[string]bool{}
)

// skip skips a test that lacks a tool. Where CI=true the test fails instead, as
// everything must be installed there.
func skip(t testing.TB, lacking tool, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: %v", lacking.name, err)
	}
	cause, _, _ := strings.Cut(err.Error(), "\n") // npm has much to say
	reason := fmt.Sprintf("%s is missing (Debian package %s): %s", lacking.name, lacking.debian, cause)
	test, _, _ := strings.Cut(t.Name(), "/")
	skippedMu.Lock()
	defer skippedMu.Unlock()
	if skipped[reason] == nil {
		skipped[reason] = map[string]bool{}
	}
	skipped[reason][test] = true
	t.Skip(reason)
}

// reportSkipped shows what was skipped to the person who started the tests.
func reportSkipped() {
	if len(skipped) == 0 {
		return
	}
	summary := "\nTests skipped in internal/e2e:\n"
	for _, reason := range slices.Sorted(maps.Keys(skipped)) {
		summary += fmt.Sprintf("%4d: %s\n", len(skipped[reason]), reason)
	}

	// Without -v, go test hides what a package that passes prints. The summary goes
	// around it: to its stderr or, where there is no /proc, to the terminal.
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
			continue // go test would write over it
		}
		fmt.Fprintln(stderr, summary)
		return
	}
	fmt.Println(summary)
}
