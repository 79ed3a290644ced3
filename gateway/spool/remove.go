package spool

import (
	"errors"
	"io/fs"
	"time"
)

const (
	removeAtOnce = 32                   // files: mass deletion slows those who write three to five times
	removePause  = 2 * time.Millisecond // between groups, while anybody writes

	// What cannot be removed is tried again, after a pause that doubles.
	firstRemoveRetry = time.Second
	maxRemoveRetry   = time.Minute
)

// removeSettled takes confirmed files off the disk, away from those who settle them.
func (s *Spool) removeSettled() {
	var again <-chan time.Time // nil where nothing is to be tried again
	for pause := firstRemoveRetry; ; {
		select {
		case <-s.sweep:
		case <-again:
			again, pause = nil, min(2*pause, maxRemoveRetry)
			s.unstick()
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
		switch stuck := s.isStuck(); {
		case !stuck:
			again, pause = nil, firstRemoveRetry
		case again == nil:
			again = time.After(pause)
		}
	}
}

// isStuck tells whether there are files that could not be removed.
func (s *Spool) isStuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.index.stuck) > 0
}

// unstick has removeSome try again what could not be removed.
func (s *Spool) unstick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.removals = append(s.index.removals, s.index.stuck...)
	s.index.stuck = nil
}

// isWritten tells whether a Put is under way.
func (s *Spool) isWritten() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turns.writing > 0
}

// removeSome removes up to n files and tells whether there are more. The directory is not synced for it: a file that a crash
// brings back is published again, with the same id. What cannot be removed stays in the index, so that no replay of this process
// takes it for mail.
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
		err := failures[i]
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			s.index.forget(e)
			continue
		}
		s.noteError(err)
		s.index.stuck = append(s.index.stuck, e)
		if !s.sticking { // else it is told
			s.sticking = true
			s.log.Error("delivered spool files cannot be removed: that is tried again, and a restart before it succeeds publishes them again",
				"dir", s.path, "file", fileName(e.id), "error", err)
		}
	}
	if s.index.removals = s.index.removals[len(batch):]; len(s.index.removals) > 0 {
		return true
	}
	s.index.removals = nil // and with it the records of what was removed
	if s.sticking && len(s.index.stuck) == 0 {
		s.sticking = false
		s.log.Info("the delivered spool files that could not be removed are gone", "dir", s.path)
	}
	return false
}
