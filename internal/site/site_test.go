package site

import (
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

func testFiles() fstest.MapFS {
	return fstest.MapFS{
		"templates/index.html": {Data: []byte("<p>{{.Name}}")},
		"static/app.js":        {Data: []byte("console.log(1)")},
		"static/deep/x.svg":    {Data: []byte("<svg/>")},
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
		path   string
		status int
		kind   string
		body   string
	}{
		{"/", 200, "text/html; charset=utf-8", "<p>&lt;b&gt;"},
		{"/static/app.js", 200, "text/javascript; charset=utf-8", "console.log(1)"},
		{"/static/deep/x.svg", 200, "image/svg+xml", "<svg/>"},
		{"/static/", 404, "text/plain; charset=utf-8", "Nothing is at this address"},
		{"/static/deep", 404, "text/plain; charset=utf-8", "Nothing is at this address"},
		{"/static/../app.cfg", 404, "text/plain; charset=utf-8", "Nothing is at this address"},
		{"/app.cfg", 404, "text/plain; charset=utf-8", "Nothing is at this address"},
		{"/templates/index.html", 404, "text/plain; charset=utf-8", "Nothing is at this address"},
	}
	for _, tt := range tests {
		for _, method := range []string{"GET", "HEAD"} {
			t.Run(method+" "+tt.path, func(t *testing.T) {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(method, tt.path, nil))
				if w.Code != tt.status || w.Header().Get("Content-Type") != tt.kind {
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

// What a browser has already is not sent again; what has changed is.
func TestValidators(t *testing.T) {
	files := testFiles()
	tagOf := func() string {
		h, err := New(files, data)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/static/app.js", nil))
		tag := w.Header().Get("Etag")
		for given, want := range map[string]int{tag: 304, "W/" + tag: 304, `"x", ` + tag: 304, "*": 304, `"x"`: 200} {
			r := httptest.NewRequest("GET", "/static/app.js", nil)
			r.Header.Set("If-None-Match", given)
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, r); w.Code != want || (w.Body.Len() == 0) != (want == 304) {
				t.Errorf("If-None-Match: %s: status %d, %d bytes", given, w.Code, w.Body.Len())
			}
		}
		return tag
	}
	before := tagOf()
	files["static/app.js"] = &fstest.MapFile{Data: []byte("console.log(2)")}
	if tagOf() == before {
		t.Error("the file has changed, its tag has not")
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

func TestLive(t *testing.T) {
	files := testFiles()
	h, err := Live(files, data)
	if err != nil {
		t.Fatal(err)
	}
	get := func() (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Code, w.Body.String()
	}
	for _, step := range []struct {
		text, want string
		status     int
	}{
		{"edited", "edited", 200},
		{"one\n{{.Nothing}}", "index.html:2", 500},
		{"mended", "mended", 200},
	} {
		files["templates/index.html"] = &fstest.MapFile{Data: []byte(step.text)}
		if status, text := get(); status != step.status || !strings.Contains(text, step.want) {
			t.Errorf("%q: %d %q", step.text, status, text)
		}
	}
	if _, err := Live(fstest.MapFS{}, data); err == nil || !strings.Contains(err.Error(), "start in the folder of the source code") {
		t.Errorf("in another folder: %v", err)
	}
}
