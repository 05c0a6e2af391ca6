// Package web serves the page and its files, protects the app from the internet, and shuts it down gracefully. Its own
// error responses are one or two sentences of plain text.
package web

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
)

// Files returns bundled or, if live is true, the files in the working directory, which must have templates/index.html.
// Symbolic links can't lead out of it.
func Files(bundled fs.FS, live bool) (fs.FS, error) {
	if !live {
		return bundled, nil
	}
	root, err := os.OpenRoot(".")
	if err == nil {
		_, err = root.Stat("templates/index.html")
	}
	if err != nil {
		return nil, errors.New("-debug needs templates/index.html, which is not in this folder: start the app in the " +
			"folder with its source code")
	}
	return root.FS(), nil
}

// Page returns a handler that serves templates/index.html, rendered with data: once or, if live is true, for each
// request.
func Page(files fs.FS, data any, live bool) (http.Handler, error) {
	page, tag, err := render(files, data)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, tag, err := page, tag, err
		if live {
			page, tag, err = render(files, data)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		serve(w, r, ".html", page, tag)
	}), err
}

func render(files fs.FS, data any) (page []byte, tag string, err error) {
	t, err := template.ParseFS(files, "templates/index.html")
	if err != nil {
		return nil, "", err
	}
	var text bytes.Buffer
	err = t.Execute(&text, data)
	return text.Bytes(), etag(text.Bytes()), err
}

// Static returns a handler that serves the files in static/, except those whose path has an element that begins with a
// dot.
func Static(files fs.FS) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		content, err := fs.ReadFile(files, name)
		if err != nil || strings.Contains(r.URL.Path, "/.") {
			http.NotFound(w, r)
			return
		}
		serve(w, r, path.Ext(name), content, etag(content))
	}
}

// serve writes a file. Browsers cache it, and revalidate it on each use. It does not use [http.ServeContent], which
// supports ranges: one request for thousands of ranges would cost as much as hundreds of requests.
func serve(w http.ResponseWriter, r *http.Request, ext string, content []byte, tag string) {
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

// contentTypes are the types of files for which the operating system may have others. net/http detects those of images,
// fonts and sounds.
var contentTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}
