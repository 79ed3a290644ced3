package spool

import (
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

// scan enters what lies in the directory into the index, reading heads only. Put goes on meanwhile.
func (s *Spool) scan() {
	defer close(s.indexed)
	reasons := 0
	err := s.dir.list(func(name string, regular bool) bool {
		if id, ok := parseName(name); ok {
			s.enter(id, regular, &reasons)
		} else if s.dir.leftover(name) {
			_ = s.dir.remove(name) // its sender never got a 250, and the lock says that its writer is dead
		}
		select {
		case <-s.closing:
			return false
		default:
			return true
		}
	})
	if reasons > maxReasons {
		s.log.Error("more spool files cannot be read and stay as they are", "dir", s.path, "files", reasons-maxReasons)
	}
	if err != nil {
		s.log.Error("the spool directory cannot be read: mail in it is not replayed", "dir", s.path, "error", err)
		s.mu.Lock()
		s.noteError(err)
		s.mu.Unlock()
	}
}

// enter takes one file into the index.
func (s *Spool) enter(id uuid.UUID, regular bool, reasons *int) {
	s.mu.Lock()
	known := s.index.byID[id] != nil
	s.mu.Unlock()
	if known {
		return
	}
	e := &entry{id: id, spooled: time.Now().UnixNano()}
	err := errNotRegular
	if regular {
		err = s.look(e)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.index.byID[id] != nil: // Put wrote it meanwhile
	case errors.Is(err, errNoDestination):
		s.index.noDestination++
	case errors.Is(err, errUnreadable):
		s.index.add(e, unreadable)
		if *reasons++; *reasons <= maxReasons {
			s.logUnreadable(e, err)
		}
	default:
		// One that could not be read for a passing reason is tried with the others, and read again then.
		s.index.add(e, ready)
		signal(s.wake)
	}
}

// look reads of a file what the index keeps.
func (s *Spool) look(e *entry) error {
	f, err := s.dir.open(fileName(e.id))
	if err != nil {
		return err
	}
	defer f.Close()
	e.size = f.size()
	for limit := int64(firstLook); ; limit = maxHead {
		buf := memory.Buffer(int(limit))
		b, err := readAt(f, buf[:min(e.size, limit)], 0)
		if err != nil {
			memory.Recycle(buf)
			return err
		}
		h, _, partial, err := parseHead(b)
		memory.Recycle(buf)
		if partial && limit < maxHead && e.size > limit {
			continue
		}
		if err == nil {
			e.spooled = h.SpooledAt.UnixNano()
		}
		return err
	}
}

func (s *Spool) logUnreadable(e *entry, err error) {
	s.log.Error("a spool file cannot be read and stays as it is", "dir", s.path, "file", fileName(e.id), "error", err)
}
