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
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxFile  = 16 << 20        // octets of one file
	maxLinks = 40              // symbolic links on the way to one file, as Linux has it
	restTime = 5 * time.Second // without a write after which a file is no half write, however it looks
)

// files reads files, each once, and remembers all that their content depends on.
type files struct {
	order   []string          // as faults name them, in the order in which they were read
	content map[string][]byte // by that name
	failed  map[string]error  // why there is no content, by that name
	stamps  map[string]stamp  // of what Sources will name, by absolute path
	rested  map[string]bool   // nobody has written to it for restTime, by that name
	torn    string
	passing bool           // what could not be read may be readable soon
	dropped map[string]int // faults that are too many to tell, by file
}

func newFiles() *files {
	return &files{content: map[string][]byte{}, failed: map[string]error{}, rested: map[string]bool{}, stamps: map[string]stamp{}, dropped: map[string]int{}}
}

// read returns the content of the file at path. Its error is fit for a fault.
func (f *files) read(path string) ([]byte, error) {
	if content, done := f.content[path]; done {
		return content, f.failed[path]
	}
	f.depend(path)
	r, err := readRegular(path)
	if r.torn != "" {
		f.torn = path + " " + r.torn
	}
	if err != nil {
		err = f.fault(err)
		f.failed[path] = err
	}
	f.order = append(f.order, path)
	f.content[path] = r.content
	f.rested[path] = r.rested
	return r.content, err
}

// readDocument is read for what should end in a newline: without one it looks torn, unless nobody has written to it for long.
func (f *files) readDocument(path string) ([]byte, error) {
	content, err := f.read(path)
	switch {
	case err != nil || f.torn != "" || f.rested[path]:
	case len(content) == 0:
		f.torn = path + " is empty"
	case content[len(content)-1] != '\n':
		f.torn = path + " does not end in a newline"
	}
	return content, err
}

// reading is a file read in one go.
type reading struct {
	content []byte
	torn    string // why it may be half a write
	rested  bool   // nobody has written to it for restTime
}

// readRegular reads a file.
func readRegular(path string) (r reading, err error) {
	// Without O_NONBLOCK opening a FIFO would wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return r, err
	}
	defer file.Close()
	before, err := file.Stat()
	switch {
	case err != nil:
		return r, err
	case before.IsDir():
		return r, errors.New("is a directory, not a file")
	case !before.Mode().IsRegular():
		return r, errors.New("is not a regular file")
	case before.Size() > maxFile:
		return r, errTooLarge
	}
	r.rested = time.Since(before.ModTime()) > restTime
	if !r.rested && written(file) {
		r.torn = "is being written"
	}
	r.content = make([]byte, 0, before.Size()+1) // one more, so that the end is seen without growing
	for {
		n, err := file.Read(r.content[len(r.content):cap(r.content)])
		r.content = r.content[:len(r.content)+n]
		switch {
		case errors.Is(err, io.EOF):
			if after, err := file.Stat(); err != nil || stampOf(after) != stampOf(before) {
				r.torn = "changed while it was read"
			}
			return r, nil
		case err != nil:
			return reading{}, err
		case len(r.content) > maxFile:
			return reading{}, errTooLarge
		}
		r.content = slices.Grow(r.content, 1)
	}
}

// written tells whether somebody has the file open for writing: a read lease is given only where nobody has. Whoever may not
// ask, since the file is another user's, or on a file system without leases, is told no.
func written(file *os.File) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	busy := false
	_ = raw.Control(func(fd uintptr) {
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
		busy = err == unix.EAGAIN
		if err == nil {
			_, _ = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		}
	})
	return busy
}

var errTooLarge = errors.New("is over 16 MiB, more than one file may hold")

// fault makes an error of the file system fit for a fault, and notes where it may pass by itself.
func (f *files) fault(err error) error {
	for _, cause := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO, syscall.ESTALE, syscall.ETIMEDOUT} {
		f.passing = f.passing || errors.Is(err, cause)
	}
	return plain(err)
}

// plain says an error of the file system without the path, which the fault names already.
func plain(err error) error {
	pathError, ofPath := errors.AsType[*fs.PathError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if ofPath {
			if to, notLink := os.Readlink(pathError.Path); notLink == nil {
				return fmt.Errorf("is a link to %q, which does not exist", to)
			}
		}
		return errors.New("does not exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("may not be read by this user")
	case ofPath:
		return fmt.Errorf("cannot be read: %w", pathError.Err)
	}
	return err
}

// meta are the signs of a pattern.
const meta = `*?[\`

// glob returns the files that pattern names from dir on, sorted, without those whose names begin with a dot. A directory that
// is there and cannot be read is an error, of the file system: to take it for an empty one would lose all that it holds.
func (f *files) glob(dir, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, meta) {
		return []string{from(dir, pattern)}, nil
	}
	if filepath.IsAbs(pattern) {
		dir = "/"
	}
	parts := strings.FieldsFunc(pattern, func(r rune) bool { return r == filepath.Separator })
	for !strings.ContainsAny(parts[0], meta) {
		dir, parts = filepath.Join(dir, parts[0]), parts[1:]
	}
	found := []string{dir}
	for _, part := range parts {
		var next []string
		for _, dir := range found {
			names, err := f.step(dir, part)
			if err != nil {
				return nil, err
			}
			next = append(next, names...)
		}
		found = next
	}
	return slices.DeleteFunc(found, func(name string) bool {
		return strings.HasPrefix(filepath.Base(name), ".")
	}), nil
}

// step returns what part, one element of a pattern, names in dir.
func (f *files) step(dir, part string) ([]string, error) {
	if _, err := filepath.Match(part, ""); err != nil {
		return nil, err
	}
	f.depend(dir)
	if !strings.ContainsAny(part, meta) {
		path := filepath.Join(dir, part)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, nil
		}
		return []string{path}, nil
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s %w", dir, f.fault(err))
	}
	var names []string
	for _, e := range entries {
		if matched, _ := filepath.Match(part, e.Name()); matched {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// from returns the path that p is for who works in dir.
func from(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// digest returns the SHA-256 over all that was read, each file begun by its length, in hex; "" where the first file, the main
// one, could not be. What else could not be read counts by its name and its error.
func (f *files) digest() string {
	if len(f.order) == 0 || f.failed[f.order[0]] != nil {
		return ""
	}
	h := sha256.New()
	for _, name := range f.order {
		if err := f.failed[name]; err != nil {
			fmt.Fprintf(h, "-\n%s %v\n", name, err)
			continue
		}
		fmt.Fprintf(h, "%d\n", len(f.content[name]))
		h.Write(f.content[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}
