package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

const (
	// PredecessorsFile is the name of the file in which a spool notes where mail was spooled before it, a path a line. It is there
	// only while there is something to note.
	PredecessorsFile = "predecessors"

	maxPredecessors = 1 << 20 // octets read of it
)

// Predecessors returns the paths that Remember noted, or an operator wrote: what is no path is returned, too.
func (s *Spool) Predecessors() ([]string, error) {
	f, err := s.dir.open(PredecessorsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, s.ofPredecessors(err)
	}
	defer f.Close()
	if f.size() > maxPredecessors {
		return nil, s.ofPredecessors(fmt.Errorf("has %d octets, and %d at most are read", f.size(), maxPredecessors))
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, f.size()))
	if err != nil {
		return nil, s.ofPredecessors(err)
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		if path := parsePredecessor(strings.TrimSuffix(line, "\n")); path != "" {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// Remember notes paths, and nothing else any more, so that a crash leaves either what was noted before or these.
func (s *Spool) Remember(paths []string) error {
	if len(paths) > 0 {
		var text strings.Builder
		for _, path := range paths {
			text.WriteString(predecessorLine(path) + "\n")
		}
		return s.ofPredecessors(s.replace(PredecessorsFile, func(f file) error { return writeAll(f, []byte(text.String())) }))
	}
	err := s.dir.remove(PredecessorsFile)
	if err == nil {
		err = s.commits.wait()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s.ofPredecessors(err)
}

// ofPredecessors says of which file err tells; it may be nil.
func (s *Spool) ofPredecessors(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", filepath.Join(s.path, PredecessorsFile), err)
}

// predecessorLine is how a path is written: as it is where it is one line, else in Go's quotes.
func predecessorLine(path string) string {
	if strings.HasPrefix(path, `"`) || strings.ContainsFunc(path, unicode.IsControl) {
		return strconv.Quote(path)
	}
	return path
}

func parsePredecessor(line string) string {
	if path, err := strconv.Unquote(line); err == nil && line[0] == '"' {
		return path
	}
	return line
}
