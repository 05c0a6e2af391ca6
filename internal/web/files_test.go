package web

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
)

// testFiles returns files that are served, others with a secret, which are not, and a handler that serves them.
func testFiles() (fstest.MapFS, http.Handler) {
	files := fstest.MapFS{
		"templates/index.html": {Data: []byte("<p>{{.Name}}")},
		"static/app.js":        {Data: []byte("console.log(1)")},
		"static/deep/x.svg":    {Data: []byte("<svg/>")},
		"static/x.png":         {Data: []byte("\x89PNG\x0D\x0A\x1A\x0A")},
		"static/.git/config":   {Data: []byte("SECRET = 'x'")},
		"app.cfg":              {Data: []byte("SECRET = 'x'")},
	}
	page, _ := Page(files, struct{ Name string }{"<b>"}, true)
	static := Static(files)
	return files, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			page(w, r)
		} else {
			static(w, r)
		}
	})
}

// Browsers cache files, and revalidate them by their tags. The server ignores Range.
func TestFiles(t *testing.T) {
	_, h := testFiles()
	for _, tt := range []struct {
		path        string
		status      int
		contentType string
		body        string
	}{
		{"/", 200, "text/html; charset=utf-8", "<p>&lt;b&gt;"},
		{"/static/app.js", 200, "text/javascript; charset=utf-8", "console.log(1)"},
		{"/static/deep/x.svg", 200, "image/svg+xml", "<svg/>"},
		{"/static/x.png", 200, "image/png", "PNG"},
		{"/static/../app.cfg", 404, "text/plain; charset=utf-8", "page not found"},
		{"/static/.git/config", 404, "text/plain; charset=utf-8", "page not found"},
	} {
		w := send(h, "GET", tt.path, "Range", "bytes=0-0")
		kind, tag := w.Header().Get("Content-Type"), w.Header().Get("Etag")
		if w.Code != tt.status || kind != tt.contentType || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s: status %d, type %s, %q", tt.path, w.Code, kind, w.Body)
		}
		if tt.status != 200 {
			continue
		}
		if w.Header().Get("Cache-Control") != "no-cache" || tag == "" {
			t.Errorf("%s: headers %v", tt.path, w.Header())
		}
		if w := send(h, "GET", tt.path, "If-None-Match", `"x", W/`+tag); w.Code != 304 || w.Body.Len() > 0 {
			t.Errorf("%s with its tag: status %d, %q", tt.path, w.Code, w.Body)
		}
	}
}

// Files are read on each request, and get a new tag when they have changed.
func TestEdit(t *testing.T) {
	files, h := testFiles()
	for _, tt := range []struct {
		file, text, path string
		status           int
		want             string
	}{
		{"templates/index.html", "edited {{.Name}}", "/", 200, "edited &lt;b&gt;"},
		{"templates/index.html", "one\n{{", "/", 500, "index.html:2"},
		{"templates/index.html", "one\n{{.Nothing}}", "/", 500, "index.html:2"},
		{"static/app.js", "console.log(2)", "/static/app.js", 200, "console.log(2)"},
	} {
		tag := send(h, "GET", tt.path).Header().Get("Etag")
		files[tt.file].Data = []byte(tt.text)
		w := send(h, "GET", tt.path, "If-None-Match", tag)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s with %q: %d %q", tt.path, tt.text, w.Code, w.Body)
		}
	}
}
