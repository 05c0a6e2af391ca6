// Package e2e tests the built program with real browsers, clients, signals and proxies. This file builds the program,
// starts it as a user does, and stops it.
package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
)

var scratch string // a folder for all temporary files, including those of browsers

func TestMain(m *testing.M) {
	// go test must not cache results, because they depend on the program, the browsers and npm, which it can't see.
	// Without its log of files and variables, it caches nothing.
	flag.Parse()
	flag.Set("test.testlogfile", "")
	flag.Set("test.parallel", "6") // whatever the number of CPUs: the tests mostly wait
	scratch = must(os.MkdirTemp("", "pusher-sample-test"))
	os.Setenv("TMPDIR", scratch)
	// Even if this process is killed, or ended by Ctrl-C, the shell sees the end of its input, and removes the folder.
	janitor := exec.Command("sh", "-c", `trap "" INT; cat; sleep 1; rm -rf "$1"`, "sh", scratch)
	input := must(janitor.StdinPipe())
	janitor.Start() // fails without a shell, for example on Windows
	code := m.Run()
	stopBrowsers()
	os.RemoveAll(scratch)
	input.Close()
	os.Exit(code)
}

// buildProgram builds the program once, with the race detector if the tests have it.
var buildProgram = sync.OnceValues(func() (binary string, err error) {
	binary = filepath.Join(scratch, "bin", "pusher-sample")
	args := []string{"build", "-o", binary}
	race := debug.BuildSetting{Key: "-race", Value: "true"}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, race) {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "pusher-sample")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

// command returns a command that runs the program in an empty folder, with env and HOME as its only environment
// variables.
func command(t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"HOME=" + cmd.Dir}, env...)
	return cmd
}

// run runs a command and returns its output and how it ended.
func run(t testing.TB, cmd *exec.Cmd) (string, error) {
	t.Helper()
	p := startProcess(t, cmd)
	err := p.wait()
	return p.logged(), err
}

// program is the built program, running.
type program struct {
	t     testing.TB
	cmd   *exec.Cmd
	url   string        // of the page, without a trailing slash
	ended chan struct{} // closed when the program has ended
	err   error         // how it ended

	mu  sync.Mutex
	log bytes.Buffer // stdout and stderr
}

// start starts the program on a free port and waits until it is ready.
func start(t testing.TB, env ...string) *program {
	t.Helper()
	return startCommand(t, command(t, env, "-addr", "127.0.0.1:0"))
}

// startWithUpstream starts a fake Pusher, and the program with its credentials.
func startWithUpstream(t testing.TB, env ...string) (*pushertest.Server, *program) {
	t.Helper()
	upstream := pushertest.NewServer(t)
	return upstream, start(t, append(env, "PUSHER_URL="+upstream.PusherURL)...)
}

var failures atomic.Int32 // programs whose tests have failed

// startCommand runs a command that starts the program, until the end of the test, and waits until it is ready.
func startCommand(t testing.TB, cmd *exec.Cmd) *program {
	t.Helper()
	p := startProcess(t, cmd)
	p.url = "http://" + strings.Replace(p.printed(`msg=ready .*address=(\S+)`, 1)[0][1], "[::]", "127.0.0.1", 1)
	return p
}

// startProcess runs a command until the end of the test. It skips the test if others have failed, so that the remaining
// tests don't all time out.
func startProcess(t testing.TB, cmd *exec.Cmd) *program {
	t.Helper()
	if failures.Load() >= 5 {
		t.Skip("skipped because others have failed")
	}
	p := &program{t: t, cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	endWithTests(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		p.wait()
		log := p.logged()
		pushertest.Log(t).Write([]byte(log))
		if strings.Contains(log, "DATA RACE") {
			t.Error(log)
		} else if t.Failed() {
			failures.Add(1)
			t.Logf("the end of the log of %s:\n%s", cmd.Path, log[max(0, len(log)-3000):])
		}
	})
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p
}

// Write records what the program logs or prints.
func (p *program) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(text)
}

// logged returns the log so far.
func (p *program) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// printed waits until the program has logged or printed text that matches pattern n times, and returns the matches.
func (p *program) printed(pattern string, n int) (matches [][]string) {
	p.t.Helper()
	pushertest.WaitFor(p.t, "output that matches "+pattern, func() bool {
		select {
		case <-p.ended:
			p.t.Fatalf("the program ended with %v: %s", p.err, p.logged())
		default:
		}
		matches = regexp.MustCompile(pattern).FindAllStringSubmatch(p.logged(), -1)
		return len(matches) >= n
	})
	return matches
}

// pusherURL returns the PUSHER_URL that the program prints for other programs.
func (p *program) pusherURL() string { return p.printed(`PUSHER_URL=\S+`, 1)[0][0] }

// socketURL returns the URL of the embedded server's WebSockets.
func (p *program) socketURL() string { return "ws://" + p.address() + "/app/local?protocol=7" }

func (p *program) address() string { return strings.TrimPrefix(p.url, "http://") }

// click sends the request of a click, which must succeed.
func (p *program) click() {
	p.t.Helper()
	if resp, text := pushertest.Request(p.t, "POST", p.url+"/pusher"); resp.StatusCode != 200 {
		p.t.Fatalf("a click: %d %s", resp.StatusCode, text)
	}
}

// signal sends a signal to the program.
func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stop sends SIGTERM and returns how the program ended.
func (p *program) stop() error {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.wait()
}

// wait waits until the program has ended, and returns its exit error, or nil.
func (p *program) wait() error {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(pushertest.Timeout):
		p.t.Fatal("timed out waiting for the program to end")
		return nil
	}
}

// must returns v. It panics if there is an error, which a working machine doesn't have.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// find returns the first group of each match of pattern in text. It fails if nothing matches.
func find(t testing.TB, pattern, text string) (found []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	if found == nil {
		t.Fatalf("nothing matches %s in:\n%s", pattern, text)
	}
	return found
}

// forward returns a reverse proxy to the server at target that keeps the Host header.
func forward(t testing.TB, target string) http.Handler {
	t.Helper()
	to := must(url.Parse(target))
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}
}

// serve serves handler until the end of the test, and returns the server's URL.
func serve(t testing.TB, handler http.Handler) string {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// The event that a click triggers, as in main.go, so that the tests still pass after it is changed.
var channel, event, message = constant("channel"), constant("event"), constant("message")

func constant(name string) string {
	source := must(os.ReadFile("../../main.go"))
	return string(regexp.MustCompile(`(?m)^\t` + name + `\s+= "(.*)"$`).FindSubmatch(source)[1])
}
