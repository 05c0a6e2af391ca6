// Package site serves the page (templates/index.html) at / and the files in static/ at /static/.
package site

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
)

const maxFileSize = 4 << 20 // bytes; New fails if a file is larger

// New returns a handler that serves the page and the files in static/ from memory. It reads them
// from a file system and renders the page with data. It leaves out files whose path has an element
// that begins with a dot, and those that are not regular.
func New(from fs.FS, data any) (http.Handler, error) {
	text, err := read(from, "templates/index.html")
	if err != nil {
		return nil, err
	}
	t, err := template.New("index.html").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	if err := t.Execute(&page, data); err != nil {
		return nil, err
	}
	files := map[string]http.Handler{"/": newFile(".html", page.Bytes())} // by URL path
	err = fs.WalkDir(from, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains("/"+name, "/.") {
			return err
		}
		body, err := read(from, name)
		files["/"+name] = newFile(path.Ext(name), body)
		return err
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, ok := files[r.URL.Path]
		if !ok {
			file = http.NotFoundHandler()
		}
		file.ServeHTTP(w, r)
	}), err
}

// NewDebug returns a handler for development: for every request, it reads the files in dir and
// renders the page again. Errors become the response. dir must contain templates/index.html.
func NewDebug(dir string, data any) (http.Handler, error) {
	root, err := os.OpenRoot(dir) // symbolic links can't lead out of it
	if err == nil {
		_, err = root.Stat("templates/index.html")
	}
	if err != nil {
		return nil, errors.New("-debug needs templates/index.html, which is not in this folder: start the app in the folder with its source code")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, err := New(root.FS(), data)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		all.ServeHTTP(w, r)
	}), nil
}

func read(from fs.FS, name string) ([]byte, error) {
	info, err := fs.Lstat(from, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileSize {
		return nil, fmt.Errorf("%s can't be served: it must be a regular file of at most %d MB", name, maxFileSize>>20)
	}
	return fs.ReadFile(from, name)
}

// newFile returns a handler that serves body. Browsers cache the body and revalidate it on each
// use. The handler does not use [http.ServeContent], which supports range requests: one request for
// thousands of ranges would cost as much as hundreds of requests.
func newFile(ext string, body []byte) http.Handler {
	etag := fmt.Sprintf(`"%.12x"`, sha256.Sum256(body))
	headers := http.Header{ // shared by all responses, to avoid allocations
		"Cache-Control":  {"no-cache"},
		"Content-Length": {strconv.Itoa(len(body))},
		"Content-Type":   {mime.TypeByExtension(ext)},
		"Etag":           {etag},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		// An entity tag contains no quotes, so finding the quoted tag in the header means a match.
		tags := strings.Join(r.Header["If-None-Match"], ", ")
		if tags == "*" || strings.Contains(tags, etag) {
			w.WriteHeader(http.StatusNotModified) // net/http then omits Content-Length and Content-Type
			return
		}
		w.Write(body)
	})
}
