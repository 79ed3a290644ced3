package spool

import (
	"errors"
	"io/fs"
	"time"
)

const (
	removeAtOnce = 32                   // files: mass deletion slows those who write three to five times
	removePause  = 2 * time.Millisecond // between groups, while anybody writes
)

// removeSettled takes confirmed files off the disk, away from those who settle them.
func (s *Spool) removeSettled() {
	for {
		select {
		case <-s.sweep:
		case <-s.closing:
			return
		}
		for s.removeSome(removeAtOnce) {
			if !s.isWritten() {
				continue
			}
			select {
			case <-time.After(removePause):
			case <-s.closing:
				return
			}
		}
	}
}

// isWritten tells whether a Put is under way.
func (s *Spool) isWritten() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turns.writing > 0
}

// removeSome removes up to n files and tells whether there are more. The directory is not synced for it: a file that a crash
// brings back is published again, with the same id.
func (s *Spool) removeSome(n int) (more bool) {
	s.mu.Lock()
	batch := s.index.removals[:min(n, len(s.index.removals))]
	s.mu.Unlock()
	failures := make([]error, len(batch))
	for i, e := range batch {
		failures[i] = s.dir.remove(fileName(e.id))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range batch {
		if err := failures[i]; err != nil && !errors.Is(err, fs.ErrNotExist) {
			// It stays in the index, so that no replay of this process takes it for mail.
			s.noteError(err)
			s.log.Error("a delivered spool file cannot be removed: it will be published again after a restart", "dir", s.path, "file", fileName(e.id), "error", err)
			continue
		}
		s.index.forget(e)
	}
	if s.index.removals = s.index.removals[len(batch):]; len(s.index.removals) == 0 {
		s.index.removals = nil // and with it the records of what was removed
		return false
	}
	return true
}
