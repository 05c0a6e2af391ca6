package guard

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The limit of a cgroup counts, or the limit of the group around it, but not more than the
// machine has. The test runs itself in real groups.
func TestMemory(t *testing.T) {
	if os.Getenv("PRINT_MEMORY") != "" {
		fmt.Print(memory())
		os.Exit(0)
	}
	machine, err := memlimit.FromSystem()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		limit, want uint64
		inner       string // the group of the process, inside the one with the limit
	}{
		{"group with a limit", 256 << 20, 256 << 20, ""},
		{"group in a group with a limit", 256 << 20, 256 << 20, "inner"},
		{"limit above the machine's memory", 1 << 50, machine, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			group := filepath.Join(newGroup(t, tt.limit), tt.inner)
			if tt.inner != "" {
				if err := os.Mkdir(group, 0o755); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.Remove(group) })
			}
			c := exec.Command("sh", "-c", `echo $$ >"$1/cgroup.procs" && exec "$0" -test.run "^TestMemory$"`, os.Args[0], group)
			c.Env = append(os.Environ(), "PRINT_MEMORY=1")
			if got, err := c.CombinedOutput(); string(got) != fmt.Sprint(tt.want) {
				t.Errorf("%s (%v), want %d", got, err, tt.want)
			}
		})
	}
}

// newGroup makes a cgroup, of version 1 or 2, that may use limit bytes of memory. It skips the
// test where it can't.
func newGroup(t *testing.T, limit uint64) string {
	parent, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(parent); err != nil {
		parent, file = "/sys/fs/cgroup", "memory.max"
	}
	group, err := os.MkdirTemp(parent, "pusher-sample-test")
	if err != nil {
		t.Skip("needs a cgroup, which only root can make, on Linux: ", err)
	}
	t.Cleanup(func() { os.Remove(group) })
	if err := os.WriteFile(filepath.Join(group, file), fmt.Append(nil, limit), 0); err != nil {
		t.Skip("needs cgroups that can limit memory: ", err)
	}
	return group
}

func TestLimitMemory(t *testing.T) {
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	defer func() { debug.SetMemoryLimit(limit); debug.SetGCPercent(percent) }()
	for _, name := range []string{"GOMEMLIMIT", "GOGC"} {
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv("GOGC", "")
		t.Setenv(name, "1")
		LimitMemory(400)
		if got := debug.SetMemoryLimit(-1); got != limit {
			t.Errorf("%s is set, but the limit is %d, want %d", name, got, limit)
		}
	}
	t.Setenv("GOGC", "")
	LimitMemory(400)
	got := debug.SetMemoryLimit(-1)
	if most := memory(); got > most*3/4 || got < most/2 {
		t.Errorf("the limit is %d of %d bytes", got, most)
	}
	if got := debug.SetGCPercent(100); got != 400 {
		t.Errorf("GC percent %d, want 400", got)
	}
}

func TestFileLimit(t *testing.T) {
	if os.Getenv("PRINT_FILE_LIMIT") != "" {
		fmt.Print(FileLimit())
		os.Exit(0)
	}
	if runtime.GOOS != "linux" {
		if got := FileLimit(); got != math.MaxInt {
			t.Errorf("%d, want no limit", got)
		}
		return
	}
	c := exec.Command("sh", "-c", `ulimit -n 256; exec "$0" -test.run "^TestFileLimit$"`, os.Args[0])
	c.Env = append(os.Environ(), "PRINT_FILE_LIMIT=1")
	if got, err := c.CombinedOutput(); string(got) != "256" {
		t.Errorf("%q (%v), want 256", got, err)
	}
}
