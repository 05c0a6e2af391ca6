package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/joho/godotenv"
)

// The names of the settings in the environment and .env, and of those in app.cfg.
var (
	envNames = []string{"PUSHER_URL", "PUSHER_CLUSTER", "PUSHER_SOCKET_URL", "PORT", "RATE_LIMIT", "TRUST_PROXY"}
	cfgNames = []string{"ID", "KEY", "SECRET", "CLUSTER", "HOST", "SECURE"}
)

// setting is a value and its place, such as "PORT" (in the environment) or "PORT in .env line 3".
type setting struct{ value, place string }

// readFile adds the settings in a file to values, except empty ones. Unknown names cause a warning, but malformed lines
// always cause an error. There need not be a .env.
func (s *Settings) readFile(values map[string]setting, dir, file string, names []string) error {
	data, err := os.ReadFile(filepath.Join(dir, file))
	switch {
	case file == ".env" && errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s can't be read (%w): make it a text file that the program may read, or remove it", file, err)
	case !utf8.Valid(data) || slices.Contains(data, 0):
		return fmt.Errorf("%s is not UTF-8 text (perhaps UTF-16): save it as UTF-8", file)
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // a byte order mark
	for i, line := range strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n") {
		place := fmt.Sprintf("%s line %d", file, i+1)
		name, value, problem := parseLine(line)
		known := s.identify(name, place, names)
		if known != "" {
			place = known + " in " + place
		}
		old := values[known]
		switch {
		case problem != "":
			return fmt.Errorf("%s %s", place, problem)
		case known == "" || value == "":
		case old.value != "" && old.value != value:
			return fmt.Errorf("%s differs from %s: keep only one of them", place, old.place)
		default:
			values[known] = setting{value, place}
		}
	}
	return nil
}

// identify returns the setting that a name in a file means, or "". It warns about unknown names; in .env, which other
// programs may read as well, only about those that begin with PUSHER. A warning doesn't show a name that could be a
// misplaced secret: random secrets usually have digits or mixed case.
func (s *Settings) identify(name, place string, names []string) string {
	known, inEnv := name, strings.HasPrefix(place, ".env")
	if !inEnv {
		known = strings.TrimPrefix(strings.ToUpper(name), "APP_") // the dashboard shows app_id
	}
	if slices.Contains(names, known) {
		return known
	}
	if name == "" || inEnv && !strings.HasPrefix(strings.ToUpper(name), "PUSHER") {
		return ""
	}
	fix := "valid names are " + strings.Join(names, ", ")
	if inEnv && strings.HasPrefix(name, "PUSHER_APP_") { // Laravel's names
		fix = "combine PUSHER_APP_ID, PUSHER_APP_KEY, PUSHER_APP_SECRET and PUSHER_APP_CLUSTER into " +
			"PUSHER_URL=https://KEY:SECRET@api-CLUSTER.pusher.com/apps/ID"
	} else if slices.Contains(envNames, name) {
		fix = "set it in .env or in the environment"
	}
	if !pattern(`^([A-Z_-]+|[a-z_-]+)$`).matches(name) {
		name = "a name"
	}
	s.Warnings = append(s.Warnings, name+" in "+place+" is not a setting of this file and is ignored: "+fix)
	return ""
}

const (
	linePattern  pattern = `^(?:export[\t ]+)?([A-Za-z_][\w.]*)[\t ]*(=|://|:)(?:[\t\pZ]+#.*)?[\t\pZ]*((?:\t|\P{Cc})*)$`
	valuePattern pattern = `^([^'"].*|'[^']*'|"[^"]*")\s*(#.*)?$`
)

// parseLine returns the name and the value in a line. If the line is invalid, problem is an error message without the
// line's place. For blank lines and comments, all results are empty. parseLine passes each line to godotenv separately,
// so that an unclosed quote can't extend into the next line. It first handles the lines that godotenv would misread:
// godotenv would read the value of NAME="a"b as a, and that of NAME= # c as # c.
func parseLine(line string) (name, value, problem string) {
	const form = "must have the form NAME=value or NAME = 'value', without control characters: correct it, or put # in " +
		"front to make it a comment"
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", ""
	}
	m := linePattern.groups(line)
	switch {
	case m == nil || m[2] == "://": // a URL without a name
		return "", "", form
	case m[3] == "":
		return m[1], "", ""
	case !valuePattern.matches(m[3]):
		return m[1], "", "must have its whole value in one pair of quotes, followed at most by a # comment: close the " +
			"quotes, or put the other kind around a value that contains quotes"
	}
	// godotenv expands $NAME, and removes \ in double quotes. Replace these characters by control characters, which a
	// valid line never contains. Its error may contain a secret.
	values, _ := godotenv.Unmarshal(strings.NewReplacer(`$`, "\x01", `\`, "\x02").Replace(line))
	value, ok := values[m[1]]
	if !ok {
		return m[1], "", form
	}
	return m[1], strings.NewReplacer("\x01", `$`, "\x02", `\`).Replace(value), ""
}
