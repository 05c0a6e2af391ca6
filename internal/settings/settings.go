// Package settings reads the program's settings from the environment, .env and app.cfg. If a setting is invalid, Load
// returns a one-line error that says where it is, what is wrong and how to fix it. No error or warning contains any
// part of a value, because someone may have pasted a secret in the wrong place.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Settings are the program's settings. Don't log them as a whole: they contain the secret.
type Settings struct {
	Server    Server
	Addr      string   // address to listen on: ":PORT", or "127.0.0.1:5000" without PORT
	RateLimit float64  // clicks per second allowed to one client address; 0 means no limit
	Proxies   int      // how many reverse proxies are in front of the program
	Heroku    bool     // whether the program runs on a Heroku dyno
	Warnings  []string // messages about ignored settings and files
}

// Load reads the settings from environ, which has the form of [os.Environ], from .env in dir and, unless PUSHER_URL is
// set, from app.cfg in dir. environ overrides .env. An empty value counts as unset. If Load returns an error, only the
// Warnings are valid.
func Load(environ []string, dir string) (s Settings, err error) {
	values := map[string]setting{}
	if err := s.readFile(values, dir, ".env", envNames); err != nil {
		return s, err
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value != "" && slices.Contains(envNames, name) {
			values[name] = setting{value, name}
		}
		s.Heroku = s.Heroku || name == "DYNO" && value != ""
	}
	source, err := s.readCredentials(values, dir)
	if err := cmp.Or(err, check(values)); err != nil {
		return s, err
	}
	s.Addr = "127.0.0.1:5000"
	if port := values["PORT"].value; port != "" {
		s.Addr = ":" + port
	}
	s.RateLimit, _ = strconv.ParseFloat(cmp.Or(values["RATE_LIMIT"].value, "1"), 64)
	s.Proxies, err = strconv.Atoi(values["TRUST_PROXY"].value)
	if err != nil && s.Heroku {
		s.Proxies = 1
	}
	s.Server, err = newServer(values, source)
	s.warnUnused(values["PUSHER_CLUSTER"], s.Server.Cluster == "")
	s.warnUnused(values["PUSHER_SOCKET_URL"], s.Server.Embedded()) // Heroku's add-on sets it for Pusher, too
	return s, err
}

func (s *Settings) warnUnused(v setting, unused bool) {
	if v.value != "" && unused {
		s.Warnings = append(s.Warnings, v.place+" is ignored with "+s.Server.Name+": remove it, or check PUSHER_URL and app.cfg")
	}
}

// readCredentials adds the credentials to values: the parts of PUSHER_URL, under their names in app.cfg, or the
// settings in app.cfg. The source is where they are, or "" if there are none.
func (s *Settings) readCredentials(values map[string]setting, dir string) (source string, err error) {
	_, err = os.Lstat(filepath.Join(dir, "app.cfg"))
	if v := values["PUSHER_URL"]; v.value != "" {
		source, _, _ = strings.Cut(v.place, " line")
		if err == nil {
			s.Warnings = append(s.Warnings, "app.cfg is ignored, because "+source+" is set: remove one of them")
		}
		if part := pusherURL.groups(v.value); part != nil { // if nil, check fails
			part[3], _ = url.PathUnescape(part[3])
			part[1] = strconv.FormatBool(part[1] != "")
			for i, name := range []string{"SECURE", "KEY", "SECRET", "HOST", "ID"} {
				values[name] = setting{part[i+1], name + " in " + v.place}
			}
		}
		return source, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := s.readFile(values, dir, "app.cfg", cfgNames); err != nil {
		return "", err
	}
	missing := slices.DeleteFunc([]string{"ID", "KEY", "SECRET"}, func(name string) bool { return values[name].value != "" })
	if len(missing) > 0 {
		return "", fmt.Errorf("app.cfg has no value for %s: it needs ID, KEY and SECRET, one per line, such as KEY = "+
			"'abc123' (see app.cfg.example); to use the embedded server, remove the file", strings.Join(missing, ", "))
	}
	return "app.cfg", nil
}
