package gateway

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"lsmtpd/gateway/spool"
)

// openPredecessors opens the spools that c.dir remembers, and those that these do, as far as they are not open.
func (c *storeChange) openPredecessors() {
	named := c.recall(c.dir)
	for len(named) > 0 {
		path := named[0]
		named = named[1:]
		if c.knows(path) {
			continue
		}
		d, err := c.store.openFormer(path)
		if err != nil {
			c.lost[path] = err.Error()
			c.store.log.Warn("a spool that is not in use any more cannot be opened: what mail is left there waits unseen", "dir", spool.Shown(path), "error", err)
			continue
		}
		c.opened = append(c.opened, d)
		named = append(named, c.recall(d)...)
	}
}

// recall reads what d remembers.
func (c *storeChange) recall(d *directory) []string {
	paths, err := d.Predecessors()
	if err != nil {
		c.warnings = append(c.warnings, forgotten(d.path, err.Error()))
		c.store.logForgotten(d.path, err)
	}
	d.remembers, d.forgot = paths, err != nil
	return paths
}

// knows tells whether the spool at path is open, or was tried.
func (c *storeChange) knows(path string) bool {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	at := func(d *directory) bool { return d.path == path }
	_, lost := c.lost[path]
	return lost || at(c.dir) || slices.ContainsFunc(c.opened, at) || c.store.find(path) != nil
}

// warn tells of a file system without room, and of the spools that cannot be opened, of earlier changes too.
func (c *storeChange) warn() {
	if text := spool.Shortage(c.dir.path, c.limits.MinFree); text != "" {
		c.warnings = append(c.warnings, text)
	}
	c.store.mu.Lock()
	all := maps.Clone(c.store.lost)
	c.store.mu.Unlock()
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, c.lost)
	delete(all, c.dir.path)
	for i, path := range slices.Sorted(maps.Keys(all)) {
		if i == maxTold {
			c.warnings = append(c.warnings, fmt.Sprintf("mail was spooled in %d more directories before that cannot be opened", len(all)-i))
			break
		}
		c.warnings = append(c.warnings, unopened(path, all[path], c.dir.path))
	}
}

// maxTold is how many spools that cannot be opened are told of one by one.
const maxTold = 20

// unopened tells of a spool that cannot be opened because of why; the one in use is at current.
func unopened(path, why, current string) string {
	return fmt.Sprintf("mail was spooled in %s before, and what is left of it waits unseen: %s; it is replayed as soon as that is mended, or, to give it up: stop lsmtpd and remove the line from %s",
		spool.Shown(path), why, filepath.Join(current, spool.PredecessorsFile))
}

// logForgotten logs that it is not known, because of why, what comes before the spool at path.
func (s *store) logForgotten(path string, why error) {
	s.log.Warn("it is not known where mail was spooled before this spool, and that mail may wait unseen", "dir", path, "error", why)
}

// forgotten tells that it is not known, because of why, what comes before the spool at path.
func forgotten(path, why string) string {
	return fmt.Sprintf("it is not known where mail was spooled before %s, and that mail may wait unseen: %s", spool.Shown(path), why)
}

// Unreached tells of mail that nobody reaches: that of spools which cannot be opened, or are not known. spools are those of a Status.
func Unreached(spools []spool.Status) []string {
	var all []string
	for _, s := range spools {
		if s.Forgot != "" {
			all = append(all, forgotten(s.Dir, s.Forgot))
		}
		if s.NotOpen != "" {
			all = append(all, unopened(s.Dir, s.NotOpen, spools[0].Dir))
		}
	}
	if more := len(all) - maxTold; more > 0 {
		all = append(all[:maxTold], fmt.Sprintf("and %d more", more))
	}
	return all
}

// openFormer opens a spool that another one remembers. It makes no directory.
func (s *store) openFormer(path string) (*directory, error) {
	return s.openAt(spool.Options{Dir: path, Existing: true})
}

// predecessors are what the spool of c is to remember once it is in use: all others that may hold mail. The caller holds mu.
func (s *store) predecessors(c *storeChange) []string {
	lost := maps.Clone(c.lost)
	for path, why := range s.lost {
		lost[path] = why
	}
	var paths []string
	for _, d := range slices.Concat(s.spools, c.opened) {
		if d != c.dir {
			paths = append(paths, d.path)
		}
	}
	delete(lost, c.dir.path)
	return append(paths, slices.Sorted(maps.Keys(lost))...)
}

// lose adds to the spools that cannot be opened, and takes those away that are open by now. The caller holds mu.
func (s *store) lose(more map[string]string) {
	if s.lost == nil {
		s.lost = map[string]string{}
	}
	maps.Copy(s.lost, more)
	for _, d := range s.spools {
		delete(s.lost, d.path)
	}
}

// expect takes in paths that an open spool remembers, and that are to be opened next. The caller holds mu.
func (s *store) expect(paths []string) {
	more := make(map[string]string, len(paths))
	for _, path := range paths {
		more[path] = "not looked for yet"
	}
	s.lose(more)
}

// alone tells whether there is no spool but the one in use, and that remembers none. The caller holds mu.
func (s *store) alone() bool {
	return len(s.spools) == 1 && len(s.lost) == 0 && len(s.spools[0].remembers) == 0 && !s.spools[0].forgot
}

// remember has d remember paths. The caller holds changing.
func (s *store) remember(d *directory, paths []string) error {
	s.mu.Lock()
	forgot := d.forgot
	s.mu.Unlock()
	if forgot {
		return errors.New(d.Status().Forgot) // the paths in its file would be lost
	}
	if err := d.Remember(paths); err != nil {
		return err
	}
	s.mu.Lock()
	d.remembers = paths
	s.mu.Unlock()
	return nil
}

// rememberOpen has the spool in use remember the others as they are now.
func (s *store) rememberOpen() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	d := s.spools[0]
	want := s.predecessors(&storeChange{dir: d, lost: map[string]string{}})
	same := slices.Equal(want, d.remembers)
	s.mu.Unlock()
	if same {
		return nil
	}
	return s.remember(d, want)
}

// recallForgotten tries again to read who came before the open spools. The caller holds changing.
func (s *store) recallForgotten() {
	s.mu.Lock()
	open := slices.Clone(s.spools)
	s.mu.Unlock()
	for _, d := range open {
		if !d.forgot { // nobody writes it without changing
			continue
		}
		if paths, err := d.Predecessors(); err == nil {
			s.mu.Lock()
			d.remembers, d.forgot = paths, false
			s.expect(paths)
			s.mu.Unlock()
		}
	}
}

// findLost tries again to open what could not be opened, and has it replayed.
func (s *store) findLost() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.recallForgotten()
	s.mu.Lock()
	lost := slices.Sorted(maps.Keys(s.lost))
	s.mu.Unlock()
	for _, path := range lost {
		d, err := s.openFormer(path)
		if err == nil {
			d.remembers, err = d.Predecessors()
			if d.forgot = err != nil; d.forgot {
				s.logForgotten(path, err)
			}
			s.log.Info("a spool that is not in use any more can be opened again: its mail is replayed", "dir", path)
			s.found(d)
			continue
		}
		s.mu.Lock()
		if s.lost[path] != "" { // no change that was committed meanwhile has it
			s.lost[path] = err.Error()
		}
		s.mu.Unlock()
	}
}

// found takes in a spool that was lost, and as lost what it remembers: to be opened next.
func (s *store) found(d *directory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spools = append(s.spools, d)
	s.expect(d.remembers)
	d.SetLimits(s.limits)
	s.beginReplay(d)
}

// errorText is err's text; "" where there is none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
