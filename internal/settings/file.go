package settings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/joho/godotenv"
)

// names are the names of the settings in each file. The environment has those of .env, and Heroku's DYNO.
var names = map[string][]string{
	".env":    {"PUSHER_URL", "PUSHER_CLUSTER", "PUSHER_SOCKET_URL", "PORT", "RATE_LIMIT", "TRUST_PROXY"},
	"app.cfg": {"ID", "KEY", "SECRET", "CLUSTER", "HOST", "SECURE"},
}

// setting is a value and its place, such as "PORT" (in the environment) or "PORT in .env line 3".
type setting struct{ value, place string }

// reader collects the settings, except empty ones, and the messages about ignored settings and files.
type reader struct {
	dir      string // with the files
	values   map[string]setting
	warnings []string
}

func (r *reader) warnf(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// readFile reads .env or app.cfg.
func (r *reader) readFile(file string) error {
	data, err := os.ReadFile(filepath.Join(r.dir, file))
	if err != nil {
		return fmt.Errorf("%s can't be read (%w): make it a text file that the program may read, or remove it",
			file, err)
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // a byte order mark
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := r.readLine(file, fmt.Sprintf("%s line %d", file, i+1), line); err != nil {
			return err
		}
	}
	return nil
}

// readLine reads a line of a file. It warns of an unknown name, and returns an error for a malformed line. In .env,
// which other programs may read as well, it ignores unknown names without the prefix PUSHER, and only warns of a
// malformed line without a known name.
func (r *reader) readLine(file, place, line string) error {
	part := groups(`^(?:export\s+)?([\w.-]*)\s*(=?)(.*)$`, line) // always matches
	name, text := part[1], part[3]
	if file == "app.cfg" {
		name = strings.TrimPrefix(strings.ToUpper(name), "APP_") // the dashboard shows app_id
	}
	known := slices.Contains(names[file], name)
	switch {
	case part[2] == "" && (known || file == "app.cfg"):
		return fmt.Errorf("%s must have the form NAME=value or NAME = 'value', in UTF-8: correct it, or put # in front to "+
			"make it a comment", place)
	case known:
		return r.set(name, name+" in "+place, text)
	case strings.HasPrefix(name, "PUSHER_APP_"): // Laravel's names
		r.warnf("%s has an unknown name and is ignored: combine PUSHER_APP_ID, PUSHER_APP_KEY and so on into PUSHER_URL=%s",
			place, credentialsURL)
	case file == "app.cfg", strings.HasPrefix(strings.ToUpper(name), "PUSHER"):
		r.warnf("%s has an unknown name and is ignored: valid names are %s", place, strings.Join(names[file], ", "))
	case part[2] == "":
		r.warnf("%s is ignored, because it does not have the form NAME=value", place)
	}
	return nil
}

// set sets a setting to the value in text, unless it is empty.
func (r *reader) set(name, place, text string) error {
	value, err := parseValue(text)
	old := r.values[name]
	switch {
	case err != nil:
		return fmt.Errorf("%s %w", place, err)
	case value != "" && old.value != "" && old.value != value:
		return fmt.Errorf("%s differs from %s: keep only one of them", place, old.place)
	case value != "":
		r.values[name] = setting{value, place}
	}
	return nil
}

// parseValue returns the value in the text after the =. It accepts only values that godotenv reads as they are written:
// outside single quotes, godotenv would expand $ and \. parseValue passes each value to godotenv separately, so that
// an unclosed quote can't extend into the next line.
func parseValue(text string) (string, error) {
	const (
		plain  = `[^[:^graph:]'"#$\\]*` // printable ASCII, except '"#$\
		single = `'[^']*'`
		double = `"[^"$\\]*"`
	)
	if part := groups(`^\s*(`+plain+`|`+single+`|`+double+`)(?:\s+#.*)?$`, text); part != nil {
		values, err := godotenv.Unmarshal("VALUE=" + part[1])
		if err == nil { // otherwise, the value is like 'a\', which godotenv reads as an unclosed quote
			return values["VALUE"], nil
		}
	}
	return "", errors.New(`must be in quotes if it contains a space, a quote, #, $, \ or a non-ASCII character: put the ` +
		`whole value in '…', or in "…" if it contains ' but neither $ nor \; only a # comment may follow`)
}
