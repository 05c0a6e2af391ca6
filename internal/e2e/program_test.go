// Helpers that build the program, start it as a user does, and stop it.
package e2e

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"
)

var scratch string // a temporary folder for all tests

func TestMain(m *testing.M) {
	// go test must not cache results, because they depend on the program, the browsers and npm,
	// which it can't see. Without its log of files and variables, it caches nothing.
	flag.Parse()
	flag.Set("test.testlogfile", "")
	flag.Set("test.parallel", "6") // whatever the number of CPUs: the tests mostly wait
	var err error
	if scratch, err = os.MkdirTemp("", "pusher-sample-test"); err != nil {
		panic(err)
	}
	code := m.Run()
	reportSkipped()
	if closeBrowser != nil {
		closeBrowser()
	}
	os.RemoveAll(scratch)
	os.Exit(code)
}

// buildProgram builds the program once, with the race detector if the tests have it.
var buildProgram = sync.OnceValues(func() (binary string, err error) {
	binary = filepath.Join(scratch, "pusher-sample")
	args := []string{"build", "-o", binary}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "pusher-sample")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

// program is the built program, running in an empty folder.
type program struct {
	t     testing.TB
	cmd   *exec.Cmd
	url   string     // of the page, without a trailing slash
	ended chan error // receives the exit error, or nil, once

	mu  sync.Mutex
	log []string // lines of stdout and stderr
}

// start starts the program on a free port, with env and HOME as its only environment variables,
// and waits until it is ready.
func start(t testing.TB, env ...string) *program {
	t.Helper()
	return startOn(t, "0", env...)
}

// startOn is like start, but listens on the given port.
func startOn(t testing.TB, port string, env ...string) *program {
	t.Helper()
	binary, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-addr", "127.0.0.1:"+port)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"HOME=" + cmd.Dir}, env...)
	return startCommand(t, cmd)
}

// startCommand runs a command that starts the program, until the end of the test.
func startCommand(t testing.TB, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{t: t, cmd: cmd, ended: make(chan error, 1)}
	output, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		if strings.Contains(p.logged(), "DATA RACE") {
			t.Error(p.logged())
		}
		if t.Failed() {
			log := strings.SplitAfter(p.logged(), "\n")
			t.Logf("the end of the log of %s:\n%s", p.url, strings.Join(log[max(0, len(log)-20):], ""))
		}
	})
	go func() { in.CloseWithError(cmp.Or(cmd.Wait(), io.EOF)) }()
	ready := make(chan string, 1)
	go p.readLog(bufio.NewScanner(output), ready)
	select {
	case port, ok := <-ready:
		if !ok {
			t.Fatalf("the program did not start: %s", p.logged())
		}
		p.url = "http://127.0.0.1:" + port
	case <-time.After(pushertest.Timeout):
		t.Fatalf("timed out waiting for the program to start: %s", p.logged())
	}
	return p
}

var readyLine = regexp.MustCompile(`msg=ready .*?:(\d+)`)

// readLog records the log, sends the port to ready and, at the end, the exit error to p.ended.
func (p *program) readLog(lines *bufio.Scanner, ready chan<- string) {
	defer close(ready)
	secrets := pushertest.Log(p.t)
	for lines.Scan() {
		secrets.Write(lines.Bytes())
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		p.mu.Unlock()
		if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
			ready <- m[1]
		}
	}
	p.ended <- lines.Err()
}

// logged returns the log so far.
func (p *program) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

// pusherURL returns the PUSHER_URL that the program prints for other programs.
func (p *program) pusherURL() string {
	p.t.Helper()
	var printed []string
	pushertest.WaitFor(p.t, "the program to print its PUSHER_URL", func() bool {
		printed = regexp.MustCompile(`PUSHER_URL=(\S+)`).FindStringSubmatch(p.logged())
		return printed != nil
	})
	return printed[1]
}

// port returns the port on which the program listens.
func (p *program) port() string { return p.url[strings.LastIndexByte(p.url, ':')+1:] }

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
	case err := <-p.ended:
		return err
	case <-time.After(pushertest.Timeout):
		p.t.Fatal("timed out waiting for the program to end")
		return nil
	}
}

// waitClosed waits until the program accepts no more connections.
func (p *program) waitClosed() {
	p.t.Helper()
	pushertest.WaitFor(p.t, "new connections to be refused", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

// event is the event that a click triggers.
type event struct{ channel, name, message string }

var (
	readEvent   sync.Once
	clicksEvent event
)

// sampleEvent returns the event that a click triggers. It reads the channel and the event's
// name from the page, and receives the message as a client, so that the tests still pass after
// these are changed.
func sampleEvent(t testing.TB) event {
	t.Helper()
	readEvent.Do(func() {
		app := start(t)
		_, page := pushertest.Request(t, "GET", app.url)
		attribute := func(name string) string {
			value := regexp.MustCompile(`data-` + name + `="([^"]+)"`).FindStringSubmatch(page)
			if value == nil {
				t.Fatalf("the page has no data-%s:\n%s", name, page)
			}
			return html.UnescapeString(value[1])
		}
		channel, name := attribute("channel"), attribute("event")
		client := pushertest.Subscribe(t, app.url, attribute("key"), channel)
		pushertest.Request(t, "POST", app.url+"/pusher")
		var received struct{ Event, Data string }
		var data struct{ Message string }
		text := client.Next(t)
		if err := errors.Join(json.Unmarshal([]byte(text), &received), json.Unmarshal([]byte(received.Data), &data)); err != nil || received.Event != name || data.Message == "" {
			t.Fatalf("a click triggered %s, which the page can't alert: %v", text, err)
		}
		clicksEvent = event{channel, name, data.Message}
	})
	if clicksEvent.name == "" {
		t.Fatal("the event of a click is unknown, because an earlier test failed to receive it")
	}
	return clicksEvent
}
