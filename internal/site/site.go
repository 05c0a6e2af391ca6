// Package site serves the files that make up the app's page: templates/index.html,
// rendered, at /, and what is in static/ at /static/.
package site

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"time"
)

// New reads all files of from, renders the page with data, and returns a handler
// that serves them from memory.
func New(from fs.FS, data any) (http.Handler, error) { return load(from, data) }

// Live returns a handler that reads and renders anew at each request, to work on
// the files. A mistake in the template is shown in place of the page. It is an
// error if from holds no such files.
func Live(from fs.FS, data any) (http.Handler, error) {
	if _, err := fs.Stat(from, "templates/index.html"); err != nil {
		return nil, errors.New("templates/index.html is not in this folder: start in the folder of the source code")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files, err := load(from, data)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		files.ServeHTTP(w, r)
	}), nil
}

// files are served by their URL paths. Browsers keep them, ask anew each time,
// and are sent only what has changed.
type files map[string]*file

type file struct {
	body []byte
	// Header values, made once and shared by all answers.
	kind, etag, length []string
}

var noCache = []string{"no-cache"}

func load(from fs.FS, data any) (files, error) {
	t, err := template.ParseFS(from, "templates/index.html")
	if err != nil {
		return nil, fmt.Errorf("the page's template can't be read: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, data); err != nil {
		return nil, fmt.Errorf("the page's template fails: %w", err)
	}
	all := files{"/": newFile(".html", page.Bytes())}
	err = fs.WalkDir(from, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(from, name)
		all["/"+name] = newFile(path.Ext(name), body)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the static files can't be read: %w", err)
	}
	return all, nil
}

func newFile(ext string, body []byte) *file {
	return &file{
		body:   body,
		kind:   []string{mime.TypeByExtension(ext)},
		etag:   []string{fmt.Sprintf(`"%.12x"`, sha256.Sum256(body))},
		length: []string{strconv.Itoa(len(body))},
	}
}

func (all files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := all[r.URL.Path]
	if f == nil {
		http.Error(w, "Nothing is at this address. The page is at /.", http.StatusNotFound)
		return
	}
	h := w.Header()
	h["Content-Type"], h["Cache-Control"], h["Etag"] = f.kind, noCache, f.etag
	if r.Header["If-None-Match"] != nil {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
		return
	}
	h["Content-Length"] = f.length
	w.Write(f.body)
}
