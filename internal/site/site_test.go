package site

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// testFiles returns a file system with files that are served, and others with a secret, which are
// not.
func testFiles() fstest.MapFS {
	return fstest.MapFS{
		"templates/index.html": {Data: []byte("<p>{{.Name}}")},
		"static/app.js":        {Data: []byte("console.log(1)")},
		"static/deep/x.svg":    {Data: []byte("<svg/>")},
		"static/.env":          {Data: []byte("SECRET = 'x'")},
		"static/.git/config":   {Data: []byte("SECRET = 'x'")},
		"app.cfg":              {Data: []byte("SECRET = 'x'")},
	}
}

var data = struct{ Name string }{"<b>"}

func TestNew(t *testing.T) {
	h, err := New(testFiles(), data)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path        string
		status      int
		contentType string
		body        string
	}{
		{"/", 200, "text/html; charset=utf-8", "<p>&lt;b&gt;"},
		{"/static/app.js", 200, "text/javascript; charset=utf-8", "console.log(1)"},
		{"/static/deep/x.svg", 200, "image/svg+xml", "<svg/>"},
		{"/static/", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/deep", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/../app.cfg", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/.env", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/.git/config", 404, "text/plain; charset=utf-8", "page not found"},
		{"/app.cfg", 404, "text/plain; charset=utf-8", "page not found"},
		{"/templates/index.html", 404, "text/plain; charset=utf-8", "page not found"},
	}
	for _, tt := range tests {
		for _, method := range []string{"GET", "HEAD"} {
			t.Run(method+" "+tt.path, func(t *testing.T) {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(method, tt.path, nil))
				if w.Code != tt.status || w.Header().Get("Content-Type") != tt.contentType {
					t.Errorf("status %d, type %s", w.Code, w.Header().Get("Content-Type"))
				}
				if tt.status == 200 && (w.Header().Get("Cache-Control") != "no-cache" || w.Header().Get("Etag") == "") {
					t.Errorf("headers %v", w.Header())
				}
				if method == "GET" && !strings.Contains(w.Body.String(), tt.body) {
					t.Errorf("%q, want %q", w.Body, tt.body)
				}
			})
		}
	}
}

// If the browser has cached a file, the server sends it again only if it has changed.
func TestIfNoneMatch(t *testing.T) {
	files := testFiles()
	tagOf := func() string {
		h, err := New(files, data)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(h) // net/http decides which headers a 304 has
		defer server.Close()
		get := func(method string, ifNoneMatch []string) (resp *http.Response, body string) {
			r, err := http.NewRequest(method, server.URL+"/static/app.js", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header["If-None-Match"] = ifNoneMatch
			resp, err = http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp, string(text)
		}
		resp, _ := get("GET", nil)
		tag := resp.Header.Get("Etag")
		tests := []struct {
			name   string
			header []string
			want   int
		}{
			{"the tag", []string{tag}, 304},
			{"weak", []string{"W/" + tag}, 304},
			{"last in a list", []string{`"x", ` + tag}, 304},
			{"first in a list", []string{tag + `,"x"`}, 304},
			{"in the second header", []string{`"x"`, tag}, 304},
			{"any", []string{"*"}, 304},
			{"another", []string{`"x"`}, 200},
			{"without quotes", []string{strings.Trim(tag, `"`)}, 200},
			{"part of another", []string{`"x` + strings.Trim(tag, `"`) + `x"`}, 200},
			{"empty", []string{""}, 200},
			{"none", nil, 200},
		}
		for _, tt := range tests {
			for _, method := range []string{"GET", "HEAD"} {
				t.Run(method+" "+tt.name, func(t *testing.T) {
					resp, body := get(method, tt.header)
					if resp.StatusCode != tt.want || resp.Header.Get("Etag") != tag || resp.Header.Get("Cache-Control") != "no-cache" {
						t.Errorf("status %d, want %d; %v", resp.StatusCode, tt.want, resp.Header)
					}
					for _, name := range []string{"Content-Type", "Content-Length"} {
						if (resp.Header.Get(name) != "") != (tt.want == 200) {
							t.Errorf("%s: %q", name, resp.Header.Get(name))
						}
					}
					if (body != "") != (tt.want == 200 && method == "GET") {
						t.Errorf("the body is %q", body)
					}
				})
			}
		}
		return tag
	}
	before := tagOf()
	files["static/app.js"] = &fstest.MapFile{Data: []byte("console.log(2)")}
	if tagOf() == before {
		t.Error("the file has changed, but its entity tag has not")
	}
}

// The server ignores Range: thousands of ranges in one request would cost as much as hundreds
// of requests.
func TestNoRanges(t *testing.T) {
	h, err := New(testFiles(), data)
	if err != nil {
		t.Fatal(err)
	}
	for _, ifNoneMatch := range [][]string{nil, {`"x"`}} {
		r := httptest.NewRequest("GET", "/static/app.js", nil)
		r.Header["If-None-Match"] = ifNoneMatch
		r.Header.Set("Range", "bytes=0-0"+strings.Repeat(",0-0", 3000))
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != 200 || w.Body.String() != "console.log(1)" {
			t.Errorf("If-None-Match %q: status %d, %d bytes", ifNoneMatch, w.Code, w.Body.Len())
		}
	}
}

func TestBadTemplate(t *testing.T) {
	for _, text := range []string{"one\n{{", "one\n{{.Nothing}}"} {
		files := maps.Clone(testFiles())
		files["templates/index.html"] = &fstest.MapFile{Data: []byte(text)}
		if _, err := New(files, data); err == nil || !strings.Contains(err.Error(), "index.html:2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// folder returns a new folder with the test's files.
func folder(t *testing.T) string {
	dir := t.TempDir()
	if err := os.CopyFS(dir, testFiles()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// get returns h's response to a GET. It fails the test if h does not respond.
func get(t *testing.T, h http.Handler, path string) (status int, body string) {
	t.Helper()
	w, done := httptest.NewRecorder(), make(chan bool)
	go func() {
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		close(done)
	}()
	select {
	case <-done:
		return w.Code, w.Body.String()
	case <-time.After(10 * time.Second):
		t.Fatalf("timed out waiting for a response to %s", path)
		return
	}
}

func TestNewDebug(t *testing.T) {
	dir := folder(t)
	h, err := NewDebug(dir, data)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		file, text, path string
		status           int
		want             string
	}{
		{"templates/index.html", "edited {{.Name}}", "/", 200, "edited &lt;b&gt;"},
		{"templates/index.html", "one\n{{.Nothing}}", "/", 500, "index.html:2"},
		{"templates/index.html", "one\n{{", "/", 500, "index.html:2"},
		{"templates/index.html", "repaired", "/", 200, "repaired"},
		{"static/app.js", "console.log(2)", "/static/app.js", 200, "console.log(2)"},
		{"static/new.css", "p {}", "/static/new.css", 200, "p {}"},
		{"main.go", "package main", "/main.go", 404, "page not found"},
		{"main.go", "package main", "/static/../main.go", 404, "page not found"},
		{"static/.env", "SECRET = 'x'", "/static/.env", 404, "page not found"},
		{"static/deep/.env", "SECRET = 'x'", "/static/deep/.env", 404, "page not found"},
		{"static/.git/config", "SECRET = 'x'", "/static/.git/config", 404, "page not found"},
	} {
		if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, body := get(t, h, tt.path); status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s with %q: %d %q", tt.path, tt.text, status, body)
		}
	}
	if _, err := NewDebug(t.TempDir(), data); err == nil || !strings.Contains(err.Error(), "start the app in the folder with its source code") {
		t.Errorf("in another folder: %v", err)
	}
}

// Debug mode serves nothing but regular files.
func TestNewDebugServesRegularFilesOnly(t *testing.T) {
	run := func(name string, args ...string) error { return exec.Command(name, args...).Run() }
	tests := []struct {
		name   string
		file   string // the file to replace
		make   func(file string) error
		path   string
		status int
	}{
		{"link out of the folder", "static/x", func(f string) error { return os.Symlink("/etc/passwd", f) }, "/static/x", 404},
		{"link to the credentials", "static/x", func(f string) error { return os.Symlink("../app.cfg", f) }, "/static/x", 404},
		{"link to the parent folder", "static/x", func(f string) error { return os.Symlink("..", f) }, "/static/x/app.cfg", 404},
		{"link in place of the folder", "static", func(f string) error { return os.Symlink("/etc", f) }, "/static/passwd", 500},
		{"pipe", "static/x", func(f string) error { return run("mkfifo", f) }, "/static/x", 404},
		{"pipe in place of the template", "templates/index.html", func(f string) error { return run("mkfifo", f) }, "/", 500},
		{"folder in place of the template", "templates/index.html", func(f string) error { return os.Mkdir(f, 0o700) }, "/", 500},
		{"huge file", "static/x", func(f string) error { return os.WriteFile(f, make([]byte, maxFileSize+1), 0o600) }, "/static/x", 500},
		{"huge file, but another is requested", "static/x", func(f string) error { return os.WriteFile(f, make([]byte, maxFileSize+1), 0o600) }, "/static/app.js", 500},
		{"large file", "static/x", func(f string) error { return os.WriteFile(f, make([]byte, maxFileSize), 0o600) }, "/static/x", 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t)
			h, err := NewDebug(dir, data)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, tt.file)
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
			if err := tt.make(file); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			status, body := get(t, h, tt.path)
			if status != tt.status || strings.Contains(body, "root:") || strings.Contains(body, "SECRET") {
				t.Errorf("status %d, want %d: %.200s", status, tt.status, body)
			}
			if strings.HasPrefix(tt.name, "huge file") && !strings.Contains(body, "static/x can't be served") {
				t.Errorf("the error does not name the file: %s", body)
			}
		})
	}
}
