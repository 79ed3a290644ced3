package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// directory is everything the spool asks of the file system. Tests put their faults here.
type directory interface {
	create() (file, error)                                // mode 0600, without a name
	open(name string) (source, error)                     // a regular file
	remove(name string) error                             //
	sync() error                                          // the names, not what is in the files
	list(each func(name string, regular bool) bool) error // until each returns false
	leftover(name string) bool                            // tells a temporary file of another process, which a crash left there
	placed() error                                        // errAstray where it is not at its path any more
	free() (int64, error)                                 // octets that who is not root may still write
	setAside(name, reason string) error                   // moves it to bad/
	aside(each func(BadEntry) bool) error                 // what is in bad/, until each returns false
	unmake()                                              // removes the directories that were made for it, as far as nothing is in them
	close() error
}

// file is one that is being written. Close without a successful link or replace before it leaves nothing.
type file interface {
	io.WriteCloser
	io.WriterAt
	Sync() error
	flush(off, n int64) error  // those octets go to the disk now, so that Sync has little to wait for
	link(name string) error    // a name that nobody has
	replace(name string) error // a name that another file has, which loses it
}

// source is a file that is being read.
type source interface {
	io.ReaderAt
	io.Closer
	size() int64
	modified() time.Time
}

// root is the directory on a real file system. All access goes through os.Root but for linkat, which it has not: its names are
// made of a uuid, and cannot lead elsewhere.
type root struct {
	*os.Root
	path    string      // as it was opened
	taken   fs.FileInfo // what was there then
	self    *os.File    // for flock and fsync
	fd      int         // of self
	named   bool        // the file system has no O_TMPFILE, or no /proc shows it
	opening string      // a uuid
	built   []string    // the directories that openDirectory made, the outermost first
	made    atomic.Int64
}

// temporary returns a name that no other file has: the uuid is this opening's own.
func (d *root) temporary() string {
	return "." + d.opening + "." + strconv.FormatInt(d.made.Add(1), 10) + ".tmp"
}

func (d *root) leftover(name string) bool {
	opening, number, _ := strings.Cut(strings.TrimPrefix(name, "."), ".")
	return name[0] == '.' && strings.HasSuffix(number, ".tmp") && uuid.Validate(opening) == nil && opening != d.opening
}

func (d *root) create() (file, error) {
	if d.named {
		name := d.temporary()
		f, err := d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		return &namedFile{File: f, root: d.Root, temp: name}, nil
	}
	// Not by os.Root, for which "." cannot lead elsewhere either: its file costs five more system calls.
	fd, err := retried(func() (int, error) { return unix.Openat(d.fd, ".", unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600) })
	if err != nil {
		return nil, &fs.PathError{Op: "openat", Path: d.path, Err: err}
	}
	return &unnamedFile{File: os.NewFile(uintptr(fd), d.path), fd: fd, root: d}, nil
}

// retried makes a system call again that a signal interrupted.
func retried(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// unnamedFile has no name until it is linked.
type unnamedFile struct {
	*os.File
	fd   int // as long as it is open
	root *root
}

func (f *unnamedFile) flush(off, n int64) error { return flush(f.File, off, n) }
func (f *namedFile) flush(off, n int64) error   { return flush(f.File, off, n) }

// flush writes octets of a file to the disk and waits for them. Where the system cannot, that is left to fsync.
func flush(f *os.File, off, n int64) error {
	const flags = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return flushed(func() (int, error) { return 0, unix.SyncFileRange(int(f.Fd()), off, n, flags) })
}

func flushed(call func() (int, error)) error {
	_, err := retried(call)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return os.NewSyscallError("sync_file_range", err)
}

func (f *unnamedFile) link(name string) error {
	// AT_EMPTY_PATH would do without /proc, but needs CAP_DAC_READ_SEARCH before Linux 6.10.
	self := "/proc/self/fd/" + strconv.Itoa(f.fd)
	err := unix.Linkat(unix.AT_FDCWD, self, f.root.fd, name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "linkat", Old: self, New: name, Err: err}
	}
	return nil
}

func (f *unnamedFile) replace(name string) error {
	temp := f.root.temporary()
	if err := f.link(temp); err != nil {
		return err
	}
	err := f.root.Rename(temp, name)
	if err != nil {
		err = errors.Join(err, f.root.Remove(temp))
	}
	return err
}

// namedFile has a temporary name until it is renamed.
type namedFile struct {
	*os.File
	root *os.Root
	temp string // "" once it is renamed
}

func (f *namedFile) replace(name string) error { return f.link(name) }

func (f *namedFile) link(name string) error {
	if err := f.root.Rename(f.temp, name); err != nil {
		return err
	}
	f.temp = ""
	return nil
}

func (f *namedFile) Close() error {
	err := f.File.Close()
	if f.temp != "" {
		err = errors.Join(err, f.root.Remove(f.temp))
	}
	return err
}

// sourceFile is a regular file and what it was when it was opened.
type sourceFile struct {
	*os.File
	info fs.FileInfo
}

func (f *sourceFile) size() int64         { return f.info.Size() }
func (f *sourceFile) modified() time.Time { return f.info.ModTime() }

func (d *root) open(name string) (source, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // O_NONBLOCK: a FIFO would keep us waiting
	if err != nil {
		if info, _ := d.Lstat(name); info != nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, errNotRegular // it leads nowhere, or out of the directory, for good
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &sourceFile{f, info}, nil
}

func (d *root) remove(name string) error { return d.Remove(name) }
func (d *root) sync() error              { return d.self.Sync() }
func (d *root) unmake()                  { unmake(d.built) }

func (d *root) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.fd, &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func (d *root) list(each func(name string, regular bool) bool) error {
	return d.listOf(".", each)
}

// listOf reads a directory in chunks: it may hold a million files.
func (d *root) listOf(path string, each func(name string, regular bool) bool) error {
	f, err := d.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		chunk, err := f.ReadDir(1024)
		for _, e := range chunk {
			if !each(e.Name(), e.Type().IsRegular()) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *root) close() error {
	var err error
	if d.self != nil {
		err = d.self.Close()
	}
	return errors.Join(err, d.Root.Close())
}
