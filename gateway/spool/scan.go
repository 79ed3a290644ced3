package spool

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"lsmtpd/gateway/memory"

	"github.com/google/uuid"
)

const (
	firstLook  = 4 << 10 // octets read of a file for its head; few heads are longer
	maxReasons = 20      // unreadable files named in the log at start; of the rest, the number
)

// scan enters what lies in the directory at start into the index, and tells of what else lies there.
func (s *Spool) scan() {
	defer close(s.indexed)
	if one := s.survey(); one != "" {
		s.log.Warn("files in the spool directory are ignored: by their names, which would be a UUID in lower case and .json, they are not the spool's",
			"dir", s.path, "files", s.Status().Ignored, "one", one)
	}
}

// Look takes in what an operator put into the directory, or took from bad/, since it was read.
func (s *Spool) Look(ctx context.Context) {
	select {
	case <-s.indexed:
		s.rescan(ctx)
	case <-ctx.Done():
	}
}

// rescan is scan for what an operator put into the directory since.
func (s *Spool) rescan(ctx context.Context) {
	select {
	case s.rescanning <- struct{}{}:
		defer func() { <-s.rescanning }()
		s.survey()
	case <-ctx.Done():
	}
}

// survey enters what lies in the directory, and is not in the index, reading heads only. Put goes on meanwhile. It returns the name
// of one of the files that it ignores; "" where there is none.
func (s *Spool) survey() (ignored string) {
	moved, stuck, others := 0, 0, 0 // unreadable files, and such as are not the spool's
	err := s.dir.list(func(name string, regular bool) bool {
		if id, ok := parseName(name); ok {
			s.enter(id, regular, &moved, &stuck)
		} else if s.dir.leftover(name) {
			_ = s.dir.remove(name) // its sender never got a 250, and the lock says that its writer is dead
		} else if !ours(name) {
			others, ignored = others+1, name
		}
		return !s.ending()
	})
	s.mu.Lock()
	s.index.ignored = others
	s.mu.Unlock()
	if moved > maxReasons {
		s.log.Error("more spool files cannot be read: they are in bad/ now", "dir", s.path, "files", moved-maxReasons)
	}
	if stuck > maxReasons {
		s.log.Error("more spool files cannot be read, and not be moved to bad/ either: they stay as they are", "dir", s.path, "files", stuck-maxReasons)
	}
	if err != nil {
		s.log.Error("the spool directory cannot be read: mail in it is not replayed", "dir", s.path, "error", err)
	}
	if err == nil {
		err = s.countBad()
	}
	if err != nil {
		s.mu.Lock()
		s.noteError(err)
		s.mu.Unlock()
	}
	return ignored
}

// ours tells whether a name that is no mail's belongs into a spool directory: hidden ones are of files being written, or the file
// system's, as lost+found is.
func ours(name string) bool {
	return name == badDirectory || name == PredecessorsFile || name == "lost+found" || name[0] == '.'
}

// ending tells whether the Spool is being closed.
func (s *Spool) ending() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// enter takes one file into the index, or moves it to bad/.
func (s *Spool) enter(id uuid.UUID, regular bool, moved, stuck *int) {
	s.mu.Lock()
	known := s.index.byID.get(id) != nil
	s.mu.Unlock()
	if known {
		return
	}
	h, size, err := head{}, int64(0), error(errNotRegular)
	if regular {
		h, size, err = s.look(id)
	}
	as, blind := ready, false
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case errors.Is(err, errNoDestination):
		as = stray
	case errors.Is(err, errUnreadable):
		aside := s.dir.setAside(fileName(id), reasonOf(err))
		if aside == nil {
			if *moved++; *moved <= maxReasons {
				s.logUnreadable(id, err, nil)
			}
			return
		}
		as = unreadable
		if *stuck++; *stuck <= maxReasons {
			s.logUnreadable(id, err, aside)
		}
	case err != nil: // for a passing reason: it is read again when it is tried
		blind = true
	}
	if h.SpooledAt.IsZero() {
		h.SpooledAt = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index.byID.get(id) != nil { // Put wrote it meanwhile
		return
	}
	e := s.index.entry(id, &h)
	e.size, e.blind = size, blind
	s.index.add(e, as)
	signal(s.wake)
}

// look reads the head of a file. Of one of LSMTPD's own, which has none, SpooledAt is when it was written.
func (s *Spool) look(id uuid.UUID) (h head, size int64, err error) {
	f, err := s.dir.open(fileName(id))
	if err != nil {
		return h, 0, err
	}
	defer f.Close()
	h, _, err = readHead(f)
	if errors.Is(err, errNoDestination) {
		h.SpooledAt = f.modified()
	}
	return h, f.size(), err
}

// readHead reads no more of a file than it must, and returns where the payload's keys begin: at the comma.
func readHead(f source) (h head, payload int, err error) {
	for limit := int64(firstLook); ; limit = maxHead {
		buf := memory.Buffer(int(limit))
		b, err := readAt(f, buf[:min(f.size(), limit)], 0)
		if err != nil {
			memory.Recycle(buf)
			return h, 0, err
		}
		h, payload, partial, err := parseHead(b)
		memory.Recycle(buf)
		if !partial || limit == maxHead || f.size() <= limit {
			return h, payload, err
		}
	}
}
