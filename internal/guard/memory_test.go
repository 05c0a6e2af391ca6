package guard

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestMemory(t *testing.T) {
	const machine = "MemTotal:       16384000 kB\nMemFree:        10000000 kB\n"
	tests := []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"no /proc", nil, 1 << 30},
		{"no cgroup", map[string]string{"proc/meminfo": machine}, 16384000 << 10},
		{"container, version 2", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n",
		}, 512 << 20},
		{"container, version 1", map[string]string{
			"proc/meminfo":     machine,
			"proc/self/cgroup": "11:cpu,cpuacct:/docker/c0ffee\n10:memory:/docker/c0ffee\n1:name=systemd:/docker/c0ffee\n0::/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "67108864\n",
		}, 64 << 20},
		{"Heroku", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
		}, 512 << 20},
		{"service with a limit", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/app.service\n",
			"sys/fs/cgroup/system.slice/memory.max":             "max\n",
			"sys/fs/cgroup/system.slice/app.service/memory.max": "268435456\n",
		}, 256 << 20},
		{"limit of a parent group", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/system.slice/app.service\n",
			"sys/fs/cgroup/system.slice/memory.max":             "268435456\n",
			"sys/fs/cgroup/system.slice/app.service/memory.max": "max\n",
		}, 256 << 20},
		{"limit above the machine's", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 16384000 << 10},
		{"group outside the namespace", map[string]string{
			"proc/meminfo": machine, "proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/memory.max": "1",
		}, 16384000 << 10},
		{"malformed files", map[string]string{"proc/meminfo": "?", "proc/self/cgroup": "?\n\n:\n::", "sys/fs/cgroup/memory.max": "?"}, 1 << 30},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			system := fstest.MapFS{}
			for name, text := range tt.files {
				system[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := memory(system); got != tt.want {
				t.Errorf("%d bytes, want %d", got, tt.want)
			}
		})
	}
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
	if most := memory(os.DirFS("/")); got > most*3/4 || got < most/2 {
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
