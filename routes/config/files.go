package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	maxFile  = 16 << 20 // octets of one file
	maxLinks = 40       // symbolic links on the way to one file, as Linux has it
)

// files reads files, each once, and remembers all that their content depends on.
type files struct {
	order   []string          // as faults name them, in the order in which they were read
	content map[string][]byte // by that name
	stamps  map[string]stamp  // of what Sources will name, by absolute path
	torn    string
	dropped map[string]int // faults that are too many to tell, by file
}

func newFiles() *files {
	return &files{content: map[string][]byte{}, stamps: map[string]stamp{}, dropped: map[string]int{}}
}

// read returns the content of the file at path. Its error is fit for a fault.
func (f *files) read(path string) ([]byte, error) {
	if content, done := f.content[path]; done {
		return content, nil
	}
	f.depend(path)
	content, changed, err := readRegular(path)
	if changed {
		f.torn = path + " changed while it was read"
	}
	if err != nil {
		return nil, err
	}
	f.order = append(f.order, path)
	f.content[path] = content
	return content, nil
}

// readDocument is read for what should end in a newline: without one it looks torn.
func (f *files) readDocument(path string) ([]byte, error) {
	content, err := f.read(path)
	switch {
	case err != nil || f.torn != "":
	case len(content) == 0:
		f.torn = path + " is empty"
	case content[len(content)-1] != '\n':
		f.torn = path + " does not end in a newline"
	}
	return content, err
}

// readRegular reads a file in one go. changed tells that somebody wrote meanwhile.
func readRegular(path string) (content []byte, changed bool, err error) {
	// Without O_NONBLOCK opening a FIFO would wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, plain(err)
	}
	defer file.Close()
	before, err := file.Stat()
	switch {
	case err != nil:
		return nil, false, plain(err)
	case before.IsDir():
		return nil, false, errors.New("is a directory, not a file")
	case !before.Mode().IsRegular():
		return nil, false, errors.New("is not a regular file")
	case before.Size() > maxFile:
		return nil, false, errTooLarge
	}
	content = make([]byte, 0, before.Size()+1) // one more, so that the end is seen without growing
	for {
		n, err := file.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		switch {
		case errors.Is(err, io.EOF):
			after, err := file.Stat()
			return content, err != nil || stampOf(after) != stampOf(before), nil
		case err != nil:
			return nil, false, plain(err)
		case len(content) > maxFile:
			return nil, false, errTooLarge
		}
		content = slices.Grow(content, 1)
	}
}

var errTooLarge = errors.New("is over 16 MiB, more than one file may hold")

// plain says an error of the file system without the path, which the fault names already.
func plain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("does not exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("may not be read by this user")
	}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}

// meta are the signs of a pattern.
const meta = `*?[\`

// glob returns the files that pattern names from dir on, sorted, without those whose names begin with a dot.
func (f *files) glob(dir, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, meta) {
		return []string{from(dir, pattern)}, nil
	}
	for _, sign := range `\*?[` { // a directory is what it is; the backslash first
		dir = strings.ReplaceAll(dir, string(sign), `\`+string(sign))
	}
	pattern = from(dir, pattern)
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	f.dependPattern(filepath.Dir(pattern))
	return slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(filepath.Base(name), ".")
	}), nil
}

// dependPattern remembers the directories that dir, itself a pattern perhaps, names now, and those where more may appear.
func (f *files) dependPattern(dir string) {
	if !strings.ContainsAny(dir, meta) {
		f.depend(dir)
		return
	}
	f.dependPattern(filepath.Dir(dir))
	found, _ := filepath.Glob(dir) // the whole pattern was good
	for _, d := range found {
		f.depend(d)
	}
}

// from returns the path that p is for who works in dir.
func from(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// digest returns the SHA-256 over all that was read, each file begun by its length, in hex.
func (f *files) digest() string {
	h := sha256.New()
	for _, name := range f.order {
		fmt.Fprintf(h, "%d\n", len(f.content[name]))
		h.Write(f.content[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}
