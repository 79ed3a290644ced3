package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// MaxUnixPath is the longest path of a Unix socket in octets (sun_path of unix(7), less its final NUL).
const MaxUnixPath = 107

// UnixSocket is a Unix socket that removes its file when it closes, and nobody else's.
type UnixSocket struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

// Unix listens on path with the given permissions. A file that a dead process left there is removed first; a socket that
// somebody listens on, or a file of another kind, is an error.
func Unix(path string, mode fs.FileMode) (*UnixSocket, error) {
	if len(path) > MaxUnixPath {
		return nil, fmt.Errorf("%s: a socket's path has at most %d octets, this one has %d", path, MaxUnixPath, len(path))
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// The file gets the mode that the socket has when it is bound: there is no moment at which others can connect.
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), uint32(mode.Perm())) })
		return errors.Join(err, failed)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		return nil, fmt.Errorf("make the socket %s: %w", path, errno)
	}
	s := &UnixSocket{UnixListener: l.(*net.UnixListener), path: path}
	s.SetUnlinkOnClose(false)
	err = os.Chmod(path, mode) // the umask may have taken from it
	if err == nil {
		s.info, err = os.Lstat(path)
	}
	if err != nil {
		s.UnixListener.Close()
		return nil, err
	}
	return s, nil
}

// removeStale removes the socket of a dead process.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is there already, and is no socket: remove it, or name another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("somebody listens on %s already: stop that process, or name another path", path)
	}
	return os.Remove(path)
}

// Gone tells whether the socket's file was removed, so that nobody finds it any more. That another file is in its place is an error.
func (s *UnixSocket) Gone() (bool, error) {
	now, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err == nil && !os.SameFile(now, s.info):
		return false, errors.New("another file is in the place of its socket: move that away, and reload")
	}
	return false, err
}

// Lost is why nobody finds the socket by its path now; nil where it is found.
func (s *UnixSocket) Lost() error {
	gone, err := s.Gone()
	if gone {
		return errors.New("its file is gone: a reload makes it again")
	}
	return err
}

// Close stops listening, and removes the file if it still is this socket's.
func (s *UnixSocket) Close() error {
	s.unlink()
	return s.UnixListener.Close()
}

// unlink removes the file if it still is this socket's.
func (s *UnixSocket) unlink() {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) {
		_ = os.Remove(s.path)
	}
}
