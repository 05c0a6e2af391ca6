package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/joho/godotenv"
)

// maxFile is how many bytes .env and app.cfg may have.
const maxFile = 64 << 10

// setting is a value as it was given.
type setting struct {
	value string
	place string // for messages: "PORT", "PORT in .env line 3", "KEY in app.cfg line 2"
	line  int    // in its file, from 1; 0 in the environment
}

var namePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// readFile reads the settings in a file of lines NAME=value. known returns the name
// of the setting that a NAME stands for, "" if for none; those lines must be well
// formed too but are ignored. Empty values are left out. The map is nil if there is
// no such file.
func readFile(dir, file string, known func(string) string) (map[string]setting, error) {
	data, err := readText(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	settings := map[string]setting{}
	for i, text := range strings.Split(data, "\n") {
		name, value, fault := parseLine(text)
		name = known(name)
		place := fmt.Sprintf("%s line %d", file, i+1)
		if name != "" {
			place = name + " in " + place
		}
		if fault != "" {
			return nil, fmt.Errorf("%s %s", place, fault)
		}
		if name == "" || value == "" {
			continue
		}
		if old := settings[name]; old.line > 0 && old.value != value {
			return nil, fmt.Errorf("%s differs from the %s in line %d: keep one of the two", place, name, old.line)
		}
		settings[name] = setting{value, place, i + 1}
	}
	return settings, nil
}

// readText reads a file without its byte order mark, lines ending in \n alone.
func readText(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var data []byte
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	}
	if err != nil {
		reason := "not a file that can be opened"
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			reason = pathErr.Err.Error()
		}
		return "", fmt.Errorf("is there but can't be read (%s): make it a text file that this user may read, or remove it", reason)
	}
	if len(data) > maxFile {
		return "", fmt.Errorf("is larger than %d KB, so it can't be the file that is meant: put only the settings into it, a line for each", maxFile>>10)
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return "", errors.New("is not text in UTF-8, but in UTF-16 perhaps: save it again as UTF-8")
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), nil
}

// godotenv expands $NAME, and takes \ away in double quotes. These hide both
// from it, as control characters, which no line that is read has.
var (
	hide = strings.NewReplacer(`$`, "\x01", `\`, "\x02")
	show = strings.NewReplacer("\x01", `$`, "\x02", `\`)
)

// parseLine returns the name and the value in a line, or what is wrong with it, to
// be said after the place; all are empty for a blank line and for a comment.
//
// godotenv reads the line, alone, so that no quote reaches into the next one, and
// only after it is plain that it will find one name and one value: of
// NAME="a"b it would keep a, and of NAME= # c it would make # c the value.
func parseLine(line string) (name, value, fault string) {
	const form = "is not of the form NAME=value or NAME = 'value': correct it, or make it a comment with # in front"
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", ""
	}
	i := strings.IndexAny(line, "=:")
	if i < 0 || strings.HasPrefix(line[i:], "://") { // a URL without a name
		return "", "", form
	}
	words := strings.Fields(line[:i])
	if len(words) == 2 && words[0] == "export" {
		words = words[1:]
	}
	if len(words) != 1 || !namePattern.MatchString(words[0]) {
		return "", "", form
	}
	name = words[0]
	if strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
		return name, "", "has a control character in it: type the line again"
	}
	written := strings.TrimSpace(line[i+1:])
	if written == "" || written[0] == '#' && line[i+1] != '#' {
		return name, "", ""
	}
	if quote := written[:1]; quote == `"` || quote == `'` {
		_, after, closed := strings.Cut(written[1:], quote)
		if !closed {
			return name, "", "opens a quote and doesn't close it in the same line: write the value in one pair of quotes, or without any"
		}
		if after = strings.TrimSpace(after); after != "" && after[0] != '#' {
			return name, "", "goes on after the closing quote: write the value in one pair of quotes (single ones around double ones, or the other way), with nothing after it but a # comment"
		}
	}
	values, err := godotenv.Unmarshal(hide.Replace(line)) // err is dropped: it quotes the line
	value, ok := values[name]
	if err != nil || !ok {
		return name, "", form
	}
	return name, show.Replace(value), ""
}
