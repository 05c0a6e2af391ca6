// Package web serves the page and its files, protects the app from abuse, and shuts it down gracefully. Its own
// error responses are one or two sentences of plain text.
package web

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// Page returns a handler that serves templates/index.html, rendered with data: once or, if live is true, for each
// request.
func Page(files fs.FS, data any, live bool) (http.HandlerFunc, error) {
	page, tag, err := render(files, data)
	if !live {
		return func(w http.ResponseWriter, r *http.Request) { serveContent(w, r, ".html", page, tag) }, err
	}
	return func(w http.ResponseWriter, r *http.Request) {
		page, tag, err := render(files, data)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		serveContent(w, r, ".html", page, tag)
	}, err
}

func render(files fs.FS, data any) (page []byte, tag string, err error) {
	var text bytes.Buffer
	t, err := template.ParseFS(files, "templates/index.html")
	if err == nil {
		err = t.Execute(&text, data)
	}
	if err != nil {
		err = fmt.Errorf("the page can't be rendered (%w): correct templates/index.html or, if it is missing, use -debug in "+
			"the folder with the source code", err)
	}
	return text.Bytes(), etag(text.Bytes()), err
}

// Static returns a handler that serves the files in static/, except those whose path has an element that begins with a
// dot.
func Static(files fs.FS) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		content, err := fs.ReadFile(files, strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil || strings.Contains(r.URL.Path, "/.") {
			http.NotFound(w, r)
			return
		}
		serveContent(w, r, path.Ext(r.URL.Path), content, etag(content))
	}
}

// serveContent writes a file, which browsers cache and revalidate on each use. It avoids [http.ServeContent], which
// supports ranges: one request for thousands of ranges would cost as much as hundreds of requests.
func serveContent(w http.ResponseWriter, r *http.Request, ext string, content []byte, tag string) {
	header := w.Header()
	header.Set("Cache-Control", "no-cache")
	header.Set("Content-Length", strconv.Itoa(len(content)))
	header.Set("Etag", tag)
	if kind, ok := contentTypes[ext]; ok {
		header.Set("Content-Type", kind)
	}
	// An entity tag contains no quotes, so finding the quoted tag in the header means a match.
	if strings.Contains(strings.Join(r.Header["If-None-Match"], ","), tag) {
		w.WriteHeader(http.StatusNotModified) // net/http then omits Content-Length and Content-Type
		return
	}
	w.Write(content)
}

func etag(content []byte) string { return fmt.Sprintf(`"%.12x"`, sha256.Sum256(content)) }

// contentTypes are the types that the operating system's configuration must not change. net/http detects the types of
// images, fonts and sounds.
var contentTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".mjs":  "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}
