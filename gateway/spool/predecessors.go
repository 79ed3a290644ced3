package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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

// Predecessors returns the paths that Remember noted, or an operator wrote: what is no path is returned, too. A file without a line
// notes nothing: an operator who gave up what was in a predecessor may have left it.
func (s *Spool) Predecessors() ([]string, error) {
	paths, err := readPredecessors(s.dir)
	err = s.ofPredecessors(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgot = err
	return paths, err
}

func readPredecessors(d interface{ open(string) (source, error) }) ([]string, error) {
	f, err := d.open(PredecessorsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.size() > maxPredecessors {
		return nil, fmt.Errorf("has %d octets, and %d at most are read", f.size(), maxPredecessors)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, f.size()))
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		if path := parsePredecessor(strings.TrimSuffix(line, "\n")); path != "" {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// CheckPredecessors tells why mail that was spooled before spool.dir became dir, and before that, could not be reached by a start.
// Like Check it takes no lock.
func CheckPredecessors(dir string) []error {
	path, err := filepath.Abs(dir)
	if err != nil {
		return []error{err}
	}
	var faults []error
	looked := map[string]bool{path: true}
	for todo := []string{path}; len(todo) > 0; todo = todo[1:] {
		paths, err := predecessorsOf(todo[0])
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", filepath.Join(Shown(todo[0]), PredecessorsFile), err))
		}
		for _, path := range paths {
			if looked[path] {
				continue
			}
			looked[path] = true
			if err := checkPredecessor(path); err != nil {
				faults = append(faults, fmt.Errorf("spool %s: %w", Shown(path), err))
				continue
			}
			todo = append(todo, path)
		}
	}
	return faults
}

// predecessorsOf reads what the spool at path noted. None is noted where there is no such directory.
func predecessorsOf(path string) ([]string, error) {
	r, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readPredecessors(&root{Root: r})
}

// checkPredecessor tells why the spool at path, which another one noted, could not be opened.
func checkPredecessor(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errMissing
	}
	if err == nil {
		err = checkDirectory(path, info)
	}
	if err == nil {
		err = checkFiles(path)
	}
	return err
}

// maxPath is how long a path may be (PATH_MAX, with the octet that ends it).
const maxPath = 4096

// checkPath tells why path, which may be anything that an operator wrote, is none of a predecessor.
func checkPath(path string) error {
	switch {
	case len(path) >= maxPath:
		return fmt.Errorf("has %d octets, which is too long for a path", len(path))
	case !filepath.IsAbs(path):
		return errors.New("is no absolute path")
	}
	return nil
}

func openPredecessor(path string) (*root, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	return openExisting(path)
}

// maxShown is how many octets of a path are told to a person.
const maxShown = 256

// Shown is a path as it is told to a person: in one line, and not longer than one is read.
func Shown(path string) string {
	if len(path) <= maxShown {
		return predecessorLine(path)
	}
	return predecessorLine(strings.ToValidUTF8(path[:maxShown], "")) + "…"
}

// Remember notes paths, and nothing else any more, so that a crash leaves either what was noted before or these.
func (s *Spool) Remember(paths []string) error {
	err := s.remember(paths)
	if err == nil {
		s.mu.Lock()
		s.forgot = nil
		s.mu.Unlock()
	}
	return s.ofPredecessors(err)
}

func (s *Spool) remember(paths []string) error {
	if len(paths) > 0 {
		var text strings.Builder
		for _, path := range paths {
			text.WriteString(predecessorLine(path) + "\n")
		}
		return s.replace(PredecessorsFile, func(f file) error { return writeAll(f, []byte(text.String())) })
	}
	err := s.dir.remove(PredecessorsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.commits.wait()
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
