package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/joho/godotenv"
)

// maxFile is the maximum size of .env and of app.cfg, in bytes.
const maxFile = 64 << 10

// setting is a value and where it was set. String returns only where, so that no message
// contains the value.
type setting struct {
	name  string // empty if the line has no known name
	value string
	file  string // empty for the environment
	line  int    // in file, from 1
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

// isTrue parses a boolean. An empty value is false.
func (v setting) isTrue() (bool, error) {
	switch strings.ToLower(v.value) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off", "":
		return false, nil
	}
	return false, fmt.Errorf("%s is neither true nor false: set it to 1 or 0, True or False, or remove it", v)
}

var plainName = regexp.MustCompile(`^([A-Z_]+|[a-z_]+)$`) // unlike a random secret

// identify returns the known name for v.name. If there is none and v.name is probably a
// mistake, it returns a warning, which shows v.name unless that could be a secret in the
// wrong place.
func identify(v setting) (known, warning string) {
	name, names := v.name, envNames
	if v.file == "app.cfg" {
		name, names = strings.ToUpper(name), cfgNames
		if name == "APP_ID" {
			name = "ID"
		}
	}
	if slices.Contains(names, name) {
		return name, ""
	}
	misplaced := v.file == ".env" && slices.Contains([]string{"ID", "APP_ID", "KEY", "SECRET", "CLUSTER"}, strings.ToUpper(name))
	if v.name == "" || v.file != "app.cfg" && !misplaced && !strings.HasPrefix(strings.ToUpper(name), "PUSHER") {
		return "", ""
	}
	if !plainName.MatchString(v.name) {
		v.name = "a name"
	}
	return "", fmt.Sprintf("%s is not a setting and is ignored: the names are %s", v, strings.Join(names, ", "))
}

// readFile reads the settings in a file of lines NAME=value. Other names are ignored,
// with a warning if one is probably a mistake, but their lines must be well formed too.
// Empty values are left out. The map is nil if there is no such file.
func (s *Settings) readFile(dir, file string) (map[string]setting, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s can't be read (%w): make it a text file that you may read, or remove it", file, err)
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s is larger than %d KB: keep only the settings in it, one per line", file, maxFile>>10)
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
		return nil, fmt.Errorf("%s is not UTF-8 text (perhaps UTF-16): save it as UTF-8", file)
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // a byte order mark
	settings := map[string]setting{}
	for i, line := range strings.Split(lineEnds.Replace(text), "\n") {
		name, value, fault := parseLine(line)
		v := setting{name, value, file, i + 1}
		known, warning := identify(v)
		v.name = known
		if fault != "" {
			return nil, fmt.Errorf("%s %s", v, fault)
		}
		if warning != "" {
			s.Warnings = append(s.Warnings, warning)
		}
		if known == "" || value == "" {
			continue
		}
		if old := settings[known]; old.line > 0 && old.value != value {
			return nil, fmt.Errorf("%s differs from line %d: keep only one of them", v, old.line)
		}
		settings[known] = v
	}
	return settings, nil
}

var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// godotenv expands $NAME and removes \ in double quotes. hide replaces both with control
// characters, which are invalid in a line, and show restores them.
var (
	hide = strings.NewReplacer(`$`, "\x01", `\`, "\x02")
	show = strings.NewReplacer("\x01", `$`, "\x02", `\`)
)

var (
	linePattern = regexp.MustCompile(`^(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*([=:])(.*)$`)
	quotedValue = regexp.MustCompile(`^('[^']*'|"[^"]*")\s*(#.*)?$`)
)

// parseLine returns the name and the value in a line, or a fault, which an error states
// after the place. All are empty for a blank line and for a comment.
//
// godotenv parses the line on its own, so that no quote reaches into the next one, and
// only once it is clear that it will find one name and one value: of
// NAME="a"b it would keep a, and of NAME= # c it would make # c the value.
func parseLine(line string) (name, value, fault string) {
	const form = "must have the form NAME=value or NAME = 'value': correct it, or put # in front to make it a comment"
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", ""
	}
	m := linePattern.FindStringSubmatch(line)
	if m == nil || m[2] == ":" && strings.HasPrefix(m[3], "//") { // a URL without a name
		return "", "", form
	}
	name, value = m[1], strings.TrimSpace(m[3])
	switch {
	case strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }):
		return name, "", "has a control character in it: type the line again"
	case value == "", value[0] == '#' && m[3][0] != '#':
		return name, "", ""
	case strings.ContainsAny(value[:1], `'"`) && !quotedValue.MatchString(value):
		return name, "", "must have its whole value in one pair of quotes (single quotes around double ones, or the other way round), with nothing after it but a # comment"
	}
	values, err := godotenv.Unmarshal(hide.Replace(line)) // err is dropped: it quotes the line
	value, ok := values[name]
	if err != nil || !ok {
		return name, "", form
	}
	return name, show.Replace(value), ""
}
