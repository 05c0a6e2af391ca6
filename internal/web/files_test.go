package web

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// testFiles returns a file system with files that are served, and others with a secret, which are not.
func testFiles() fstest.MapFS {
	return fstest.MapFS{
		"templates/index.html": {Data: []byte("<p>{{.Name}}")},
		"static/app.js":        {Data: []byte("console.log(1)")},
		"static/style.css":     {Data: []byte("p {}")},
		"static/deep/x.svg":    {Data: []byte("<svg/>")},
		"static/x.png":         {Data: []byte("\x89PNG\x0D\x0A\x1A\x0A")},
		"static/.env":          {Data: []byte("SECRET = 'x'")},
		"static/.git/config":   {Data: []byte("SECRET = 'x'")},
		"app.cfg":              {Data: []byte("SECRET = 'x'")},
	}
}

var data = struct{ Name string }{"<b>"}

func TestFiles(t *testing.T) {
	page, err := Page(testFiles(), data, false)
	if err != nil {
		t.Fatal(err)
	}
	static := Static(testFiles())
	tests := []struct {
		path        string
		status      int
		contentType string
		body        string
	}{
		{"/", 200, "text/html; charset=utf-8", "<p>&lt;b&gt;"},
		{"/static/app.js", 200, "text/javascript; charset=utf-8", "console.log(1)"},
		{"/static/deep/x.svg", 200, "image/svg+xml", "<svg/>"},
		{"/static/x.png", 200, "image/png", "PNG"},
		{"/static/", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/../app.cfg", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/.env", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/.git/config", 404, "text/plain; charset=utf-8", "page not found"},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			h := http.Handler(static)
			if tt.path == "/" {
				h = page
			}
			w := get(h, tt.path)
			kind, tag := w.Header().Get("Content-Type"), w.Header().Get("Etag")
			if w.Code != tt.status || kind != tt.contentType || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("status %d, type %s, %q", w.Code, kind, w.Body)
			}
			if tt.status != 200 {
				return
			}
			if w.Header().Get("Cache-Control") != "no-cache" || tag == "" {
				t.Errorf("headers %v", w.Header())
			}
			if w := get(h, tt.path, "If-None-Match", `"x", W/`+tag); w.Code != 304 || w.Body.Len() > 0 {
				t.Errorf("with its tag: status %d, %q", w.Code, w.Body)
			}
			if w := get(h, tt.path, "If-None-Match", `"x"`); w.Code != 200 {
				t.Errorf("with another tag: status %d", w.Code)
			}
		})
	}
}

// The server ignores Range: thousands of ranges in one request would cost as much as hundreds of requests.
func TestNoRanges(t *testing.T) {
	w := get(Static(testFiles()), "/static/app.js", "Range", "bytes=0-0"+strings.Repeat(",0-0", 3800))
	if w.Code != 200 || w.Body.String() != "console.log(1)" {
		t.Errorf("status %d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestBadTemplate(t *testing.T) {
	files := fstest.MapFS{"templates/index.html": {Data: []byte("one\n{{.Nothing}}")}}
	if _, err := Page(files, data, false); err == nil || !strings.Contains(err.Error(), "index.html:2") {
		t.Error(err)
	}
}

// Live files are read on each request, and have another tag when they have changed. Links can't lead out of the folder.
func TestLive(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, testFiles()); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	files, err := Files(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	page, err := Page(files, data, true)
	if err != nil {
		t.Fatal(err)
	}
	static := Static(files)
	tag := get(static, "/static/app.js").Header().Get("Etag")
	for _, tt := range []struct {
		file, text, path string
		status           int
		want             string
	}{
		{"templates/index.html", "edited {{.Name}}", "/", 200, "edited &lt;b&gt;"},
		{"templates/index.html", "one\n{{", "/", 500, "index.html:2"},
		{"templates/index.html", "repaired", "/", 200, "repaired"},
		{"static/app.js", "console.log(2)", "/static/app.js", 200, "console.log(2)"},
		{"static/new.css", "p {}", "/static/new.css", 200, "p {}"},
	} {
		if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := http.Handler(static)
		if tt.path == "/" {
			h = page
		}
		if w := get(h, tt.path); w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s with %q: %d %q", tt.path, tt.text, w.Code, w.Body)
		}
	}
	if get(static, "/static/app.js").Header().Get("Etag") == tag {
		t.Error("the file has changed, but its tag has not")
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "static/link")); err != nil {
		t.Skip("can't create a symbolic link: ", err)
	}
	if w := get(static, "/static/link"); w.Code != 404 {
		t.Errorf("a link out of the folder: %d %.100q", w.Code, w.Body)
	}
}
