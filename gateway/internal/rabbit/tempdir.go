package rabbit

import (
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	tempPrefix = "lsmtpd-rabbitmq-"
	tempLock   = "lock"
	// tempGrace is how long after its making a directory may not be locked yet.
	tempGrace = time.Minute
)

// makeTemp makes a temporary directory that is locked while this process lives, and removes those of processes that died
// without having the time to.
func makeTemp() (dir string, lock *os.File, err error) {
	sweep(os.TempDir(), time.Now().Add(-tempGrace))
	dir, err = os.MkdirTemp("", tempPrefix)
	if err != nil {
		return "", nil, err
	}
	lock, err = os.OpenFile(filepath.Join(dir, tempLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return dir, lock, nil
}

// sweep removes the temporary directories in parent that are older than before and that nobody locks.
func sweep(parent string, before time.Time) {
	locks, err := filepath.Glob(filepath.Join(parent, tempPrefix+"*", tempLock))
	if err != nil {
		return
	}
	for _, path := range locks {
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.ModTime().After(before) {
			continue
		}
		lock, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // somebody else's
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		lock.Close()
	}
}
