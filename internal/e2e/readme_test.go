// Tests that the README is correct: its commands, settings and file names. TestReadmeProxy tests its nginx site.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pusher-sample/internal/pushertest/socket"
)

var readme = string(must(os.ReadFile("../../README.md")))

// The README's table lists exactly the settings and flags that the program has.
func TestReadmeSettings(t *testing.T) {
	usage, err := run(t, command(t, nil, "-h"))
	if err != nil {
		t.Fatal(err)
	}
	example := must(os.ReadFile("../../app.cfg.example"))
	want := append(find(t, `(?m)^  (-[a-z]+|[A-Z_]+)\s`, usage), find(t, `(?m)^#?([A-Z]+) = `, string(example))...)
	var got []string
	const name = "`(?:-[a-z]+|[A-Z_]+)(?:[ =][A-Z:]+)?`"
	for _, names := range find(t, `(?m)^\| (`+name+`(?:, `+name+`)*) \|`, readme) {
		got = append(got, find(t, "`(-[a-z]+|[A-Z_]+)", names)...)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(slices.Compact(got), want) {
		t.Errorf("the table has %v, the program %v", got, want)
	}
}

// The files that the README mentions exist.
func TestReadmeNames(t *testing.T) {
	for _, name := range find(t, "`([A-Za-z.][\\w.-]*(?:/[\\w.-]+)*(?:/|\\.[a-z]+)|internal/[a-z0-9]+)`", readme) {
		if name == "app.cfg" || name == ".env" { // created by the reader
			continue
		}
		if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
			t.Error(err)
		}
	}
}

// The README's trigger commands work as written. (.ci/run runs its go test command.)
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	app := start(t)
	for _, args := range find(t, `(?m)^go run \. trigger\b(.*)$`, readme) {
		want := regexp.MustCompile(`^ (\S+) (\S+) '(.*)'$`).FindStringSubmatch(args)
		if want == nil {
			want = []string{"", "test_channel", "my_event", `{"message":"hello world"}`}
		}
		client := socket.Subscribe(t, app.url, "local", want[1])
		shell := exec.Command("sh", "-c", command(t, nil).Path+" trigger"+args)
		shell.Dir, shell.Env = t.TempDir(), []string{app.pusherURL()}
		lines := 2 // the result, and that the page shows no alert
		if want[1] == channel && want[2] == event {
			lines = 1
		}
		if out, err := run(t, shell); err != nil || strings.Count(out, "\n") != lines {
			t.Errorf("trigger%s: %v, printed %s, want %d lines", args, err, out, lines)
		}
		client.WantEvent(want[1], want[2], want[3])
	}
}
