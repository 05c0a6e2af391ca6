package settings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/joho/godotenv"
)

var (
	// The names of the settings in the environment and .env, and of those in app.cfg.
	envNames = []string{"PUSHER_URL", "PUSHER_CLUSTER", "PUSHER_SOCKET_URL", "PORT", "RATE_LIMIT", "TRUST_PROXY"}
	cfgNames = []string{"ID", "KEY", "SECRET", "CLUSTER", "HOST", "SECURE"}

	// plainName matches names that may be shown: a random secret usually has digits or mixed case.
	plainName = regexp.MustCompile(`^([A-Z_-]+|[a-z_-]+)$`)
)

// setting is a value and where it was set. String never contains the value, which may be secret.
type setting struct {
	name  string // empty if the line has no known name
	value string
	file  string // empty for the environment; for a part of PUSHER_URL, the String of PUSHER_URL
	line  int    // in file, from 1; 0 if there is none
}

// String returns, for example, "PORT" for the environment, or "PORT in .env line 3".
func (v setting) String() string {
	place := v.file
	if v.line > 0 {
		place += fmt.Sprintf(" line %d", v.line)
	}
	if v.name != "" && place != "" {
		return v.name + " in " + place
	}
	return v.name + place
}

// identify returns the name of the setting that v.name means, or "". It warns about unknown and
// misplaced names; in the environment, only about those that begin with PUSHER, because others
// belong to other programs. The warning doesn't show a name that could be a misplaced secret.
func (s *Settings) identify(v setting) string {
	name, names := v.name, envNames
	short := strings.TrimPrefix(strings.ToUpper(name), "APP_") // the dashboard shows app_id
	if v.file == "app.cfg" {
		name, names = short, cfgNames
	}
	if slices.Contains(names, name) {
		return name
	}
	if v.name != "" && (v.file != "" || strings.HasPrefix(short, "PUSHER")) {
		if !plainName.MatchString(v.name) {
			v.name = "a name"
		}
		problem := "is not a setting and is ignored: valid names are " + strings.Join(names, ", ")
		switch {
		case v.file == "app.cfg" && slices.Contains(envNames, v.name):
			problem = "is ignored in this file: set it in .env or in the environment"
		case v.file == ".env" && slices.Contains(cfgNames, short):
			problem = "is ignored in this file: set it in app.cfg"
		}
		s.Warnings = append(s.Warnings, v.String()+" "+problem)
	}
	return ""
}

// readFile reads NAME=value lines from a file, if it exists, and adds the settings to values,
// except empty ones. Unknown names cause a warning, but malformed lines always cause an error.
func (s *Settings) readFile(values map[string]setting, dir, file string) error {
	data, err := os.ReadFile(filepath.Join(dir, file))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s can't be read (%w): make it a text file that the program may read, or remove it", file, err)
	case len(data) > 64<<10:
		return fmt.Errorf("%s is larger than 64 KB: keep only the settings in it, one per line", file)
	case !utf8.Valid(data) || slices.Contains(data, 0):
		return fmt.Errorf("%s is not UTF-8 text (perhaps UTF-16): save it as UTF-8", file)
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // a byte order mark
	for i, line := range strings.Split(lineEnds.Replace(text), "\n") {
		name, value, problem := parseLine(line)
		v := setting{name, value, file, i + 1}
		v.name = s.identify(v)
		old := values[v.name]
		switch {
		case problem != "":
			return fmt.Errorf("%s %s", v, problem)
		case v.name == "" || value == "":
		case old.line > 0 && old.value != value:
			return fmt.Errorf("%s differs from line %d: keep only one of them", v, old.line)
		default:
			values[v.name] = v
		}
	}
	return nil
}

var (
	lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

	// godotenv expands $NAME, and removes \ in double quotes. escape replaces $ and \ with control
	// characters, which a valid line never contains, and unescape restores them.
	escape   = strings.NewReplacer(`$`, "\x01", `\`, "\x02")
	unescape = strings.NewReplacer("\x01", `$`, "\x02", `\`)

	linePattern  = regexp.MustCompile(`^(?:export[\t ]+)?([A-Za-z_][\w.]*)[\t ]*(=|://|:)(?:[\t\pZ]+#.*)?[\t\pZ]*((?:\t|\P{Cc})*)$`)
	valuePattern = regexp.MustCompile(`^([^'"].*|'[^']*'|"[^"]*")\s*(#.*)?$`)
)

// parseLine returns the name and the value in a line. If the line is invalid, problem is an error
// message without the line's place. For blank lines and comments, all results are empty. parseLine
// passes each line to godotenv separately, so that an unclosed quote can't extend into the next
// line. It first handles the lines that godotenv would misread: godotenv would read the value of
// NAME="a"b as a, and that of NAME= # c as # c.
func parseLine(line string) (name, value, problem string) {
	const form = "must have the form NAME=value or NAME = 'value', without control characters: correct it, or put # in front to make it a comment"
	line = strings.TrimSpace(line)
	m := linePattern.FindStringSubmatch(line)
	switch {
	case line == "" || line[0] == '#':
		return "", "", ""
	case m == nil || m[2] == "://": // a URL without a name
		return "", "", form
	case m[3] == "":
		return m[1], "", ""
	case !valuePattern.MatchString(m[3]):
		return m[1], "", "must have its whole value in one pair of quotes, followed at most by a # comment: close the quotes, or put the other kind around a value that contains quotes"
	}
	values, _ := godotenv.Unmarshal(escape.Replace(line)) // its error may contain a secret
	value, ok := values[m[1]]
	if !ok {
		return m[1], "", form
	}
	return m[1], unescape.Replace(value), ""
}
