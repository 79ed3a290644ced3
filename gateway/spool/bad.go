package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	badDirectory = "bad"
	reasonSuffix = ".reason" // of the file beside each in bad/: a time and why
	maxReason    = 4 << 10   // octets read of one
)

// BadEntry is a file that could not be read and was moved to bad/. Nothing deletes it but its operator.
type BadEntry struct {
	Dir     string    `json:"dir"`               // the spool's
	Name    string    `json:"name"`              // in bad/
	Reason  string    `json:"reason"`            // "" where somebody took the note away
	MovedAt time.Time `json:"moved_at,omitzero"` // as the note says
}

// Bad returns what is in bad/, in no order. It ends with ctx's error.
func (s *Spool) Bad(ctx context.Context) iter.Seq2[BadEntry, error] {
	return func(yield func(BadEntry, error) bool) {
		enough := false
		err := s.dir.aside(func(b BadEntry) bool {
			if ctx.Err() != nil {
				return false
			}
			b.Dir = s.path
			enough = !yield(b, nil)
			return !enough
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && !enough {
			yield(BadEntry{}, fmt.Errorf("spool %s: %s: %w", s.path, badDirectory, err))
		}
	}
}

// countBad takes the number of files in bad/ into the index.
func (s *Spool) countBad() error {
	n := 0
	err := s.dir.aside(func(BadEntry) bool { n++; return !s.ending() })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.bad = n
	return err
}

// quarantine moves a file that cannot be read to bad/. It tells whether it is there; otherwise it stays, and nobody touches it.
func (s *Spool) quarantine(id uuid.UUID, why error) bool {
	err := s.dir.setAside(fileName(id), reasonOf(why))
	s.logUnreadable(id, why, err)
	return err == nil
}

// logUnreadable tells of a file that cannot be read and was moved, or was not because of stuck.
func (s *Spool) logUnreadable(id uuid.UUID, why, stuck error) {
	if stuck != nil {
		s.log.Error("a spool file cannot be read, and not be moved to bad/ either: it stays as it is",
			"dir", s.path, "file", fileName(id), "error", why, "bad_error", stuck)
		return
	}
	s.log.Error("a spool file cannot be read: it is in bad/ now", "dir", s.path, "file", fileName(id), "error", why)
}

// reasonOf is what the note beside a file in bad/ says, in one line.
func reasonOf(err error) string {
	return strings.ReplaceAll(strings.TrimPrefix(err.Error(), errUnreadable.Error()+": "), "\n", " ")
}

func (d *root) setAside(name, reason string) error {
	if err := d.makeBad(); err != nil {
		return err
	}
	as, err := d.freeName(path.Join(badDirectory, name))
	if err != nil {
		return err
	}
	note, err := d.OpenFile(as+reasonSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(note, "%s %s\n", time.Now().UTC().Format(time.RFC3339), reason)
	if err = errors.Join(err, note.Close()); err == nil {
		err = d.Rename(name, as)
	}
	if err != nil {
		err = errors.Join(err, d.Remove(as+reasonSuffix))
	}
	return err
}

// makeBad makes the directory where it is missing. It takes no other thing for it.
func (d *root) makeBad() error {
	err := d.Mkdir(badDirectory, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := d.Lstat(badDirectory)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", badDirectory)
	}
	return err
}

// freeName returns name, or one with a number behind it where that is taken: nothing in bad/ is ever replaced.
func (d *root) freeName(name string) (string, error) {
	for n, as := 1, name; ; n++ {
		_, err := d.Lstat(as)
		_, noteErr := d.Lstat(as + reasonSuffix)
		switch {
		case errors.Is(err, fs.ErrNotExist) && errors.Is(noteErr, fs.ErrNotExist):
			return as, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		as = name + "." + strconv.Itoa(n)
	}
}

func (d *root) aside(each func(BadEntry) bool) error {
	err := d.listOf(badDirectory, func(name string, _ bool) bool {
		return strings.HasSuffix(name, reasonSuffix) || each(d.badEntry(name))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *root) badEntry(name string) BadEntry {
	b := BadEntry{Name: name}
	f, err := d.open(path.Join(badDirectory, name+reasonSuffix))
	if err != nil {
		return b
	}
	defer f.Close()
	text, _ := io.ReadAll(io.NewSectionReader(f, 0, maxReason))
	when, why, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	if b.MovedAt, err = time.Parse(time.RFC3339, when); err == nil {
		b.Reason = why
	}
	return b
}
