package spool

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
)

// ErrFull tells that the file system takes no mail for now: no room, no quota, no descriptor, or a disk that fails.
// The reply to it is 452 4.3.1.
var ErrFull = errors.New("no room for more mail")

// store writes a file so that a crash leaves the whole of it or nothing, and after a nil error the whole of it:
//
//	openat(O_TMPFILE) → write → fsync → linkat → fsync of the directory
//
// Until linkat there is no name, and Close alone undoes it. The sad path that remains: the directory's fsync fails, and so does
// taking the name away again. Then a file may be found later of which the sender was told that it was not taken: a duplicate.
func (s *Spool) store(name string, fill func(file) error) (err error) {
	defer func() { err = classify(err) }()
	f, err := s.write(fill)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.link(name); err != nil {
		return err
	}
	if err := s.commits.wait(); err != nil {
		return errors.Join(err, s.dir.remove(name))
	}
	return nil
}

// replace writes a file in the place of another one, so that a crash leaves one of the two.
func (s *Spool) replace(name string, fill func(file) error) (err error) {
	defer func() { err = classify(err) }()
	f, err := s.write(fill)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.replace(name); err != nil {
		return err
	}
	return s.commits.wait()
}

// write returns a file that has no name yet, and whose octets, which fill writes, are on disk. It is never synced a second time: after
// a failure that could succeed without them.
func (s *Spool) write(fill func(file) error) (file, error) {
	f, err := s.dir.create()
	if err != nil {
		return nil, err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func writeAll(f file, octets []byte) error {
	_, err := f.Write(octets)
	return err
}

// classify makes errors of a full or failing file system ErrFull too.
func classify(err error) error {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.EIO} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	return err
}

// group lets many writers share one sync of the directory. Syncs follow one another.
type group struct {
	sync func() error

	mu   sync.Mutex // guards what follows
	next *commit    // the sync that has not begun, nil where there is none
	last *commit    // the one that was asked for last
}

// commit is one sync of the directory. err is set before done is closed.
type commit struct {
	done chan struct{}
	err  error
}

// wait returns when a sync that began after the call has ended, with its error. One that was under way does not count: it may
// have passed the caller's file before it was linked. Who comes first waits for that one, then syncs for all who came meanwhile.
func (g *group) wait() error {
	g.mu.Lock()
	if c := g.next; c != nil {
		g.mu.Unlock()
		<-c.done
		return c.err
	}
	c := &commit{done: make(chan struct{})}
	before := g.last
	g.next, g.last = c, c
	g.mu.Unlock()

	if before != nil {
		<-before.done
	}
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	c.err = g.sync()
	close(c.done)
	return c.err
}
