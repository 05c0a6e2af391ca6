// Package pushertest provides helpers for tests: a fake Pusher, HTTP clients, and servers with a test certificate.
package pushertest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Timeout is how long tests wait for an expected event or response. A test that passes never waits that long.
const Timeout = 20 * time.Second

// WaitFor waits until done returns true. The test fails after Timeout.
func WaitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(Timeout); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timed out waiting for ", what)
		}
	}
}

// client opens a connection for each request, so that none is left over.
var client = &http.Client{Timeout: Timeout, Transport: &http.Transport{DisableKeepAlives: true}}

// Request sends a request and returns the response and its body. headers are names, each followed by its value.
func Request(t testing.TB, method, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// Log returns a writer that discards log lines. The test fails if a line contains one of the tests' secrets or a signed
// URL.
func Log(t testing.TB) io.Writer { return secretFinder{t} }

type secretFinder struct{ t testing.TB }

func (f secretFinder) Write(line []byte) (int, error) {
	for _, secret := range []string{"testsecret", "othersecret", "auth_signature=", "body_md5="} {
		if bytes.Contains(line, []byte(secret)) {
			f.t.Errorf("a secret or a signed URL is in the log: %s", line)
		}
	}
	return len(line), nil
}

// Clicks sends clicks and counts the responses. The zero value is ready to use, and safe for concurrent use.
type Clicks struct {
	mu        sync.Mutex
	responses map[string]int
}

// Click sends the request of a click to the app at url. If there is no response, it counts "none".
func (c *Clicks) Click(url string) {
	response := "none"
	if resp, err := client.Post(strings.TrimSuffix(url, "/")+"/pusher", "", nil); err == nil {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		response = resp.Status[:4] + string(text)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.responses == nil {
		c.responses = map[string]int{}
	}
	c.responses[response]++
}

// Count returns how many responses contain text. A response is its status and body in one string, such as "200 ok".
func (c *Clicks) Count(text string) int {
	n := 0
	for response, times := range c.Responses() {
		if strings.Contains(response, text) {
			n += times
		}
	}
	return n
}

// Responses returns how often each response was received.
func (c *Clicks) Responses() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.responses)
}
