package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// errLocked tells that another process has a directory open.
var errLocked = errors.New("another process has it open")

// lockPoll is how often a directory that is waited for is tried again.
const lockPoll = 100 * time.Millisecond

// errMissing tells that a directory is not there which Open was not to make.
var errMissing = errors.New("there is no such directory")

// errAstray tells that the directory was moved, removed or hidden: a later start would not find the mail in it.
var errAstray = errors.New("the directory that is open is not at its path any more: move it back, or restart lsmtpd where it is gone for good")

// Check tells why Open would refuse dir as it is now, nil where it would not. Like Open it makes a file there, or, where dir is not
// there yet, a directory as near as can be; it leaves nothing behind, and it takes no lock.
func Check(dir string) error {
	if err := check(filepath.Clean(dir)); err != nil {
		return fmt.Errorf("spool %s: %w", dir, err)
	}
	return nil
}

func check(path string) error {
	if err := checkPlace(path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkMissing(path)
	}
	if err == nil {
		err = checkDirectory(path, info)
	}
	if err != nil {
		return err
	}
	return checkFiles(path)
}

// checkMissing tells why the directory at path could not be made, or would take no files.
func checkMissing(path string) error {
	above := filepath.Dir(path)
	for above != "/" && above != "." {
		if _, err := os.Lstat(above); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		above = filepath.Dir(above)
	}
	made, err := os.MkdirTemp(above, ".lsmtpd-check-*")
	if err != nil {
		return fmt.Errorf("cannot be made: %w", err)
	}
	return errors.Join(checkFiles(made), os.Remove(made))
}

// checkFiles tells why the directory at path takes no files.
func checkFiles(path string) error {
	r, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	d := &root{Root: r, path: path, opening: uuid.NewString()}
	if err = d.openSelf(); err == nil {
		err = d.tryOut()
	}
	return errors.Join(err, d.close())
}

// openDirectory makes path where it is missing, checks and locks it. It leaves no directory behind that it made in vain.
func openDirectory(path string) (*root, error) {
	if err := checkPlace(filepath.Clean(path)); err != nil {
		return nil, err
	}
	built, err := makeDirectory(filepath.Clean(path))
	var d *root
	if err == nil {
		d, err = openExisting(path)
	}
	if err != nil {
		unmake(built)
		return nil, err
	}
	d.built = built
	return d, nil
}

// openExisting checks and locks the directory at path.
func openExisting(path string) (*root, error) {
	path = filepath.Clean(path) // a trailing slash would make Lstat follow a symbolic link
	before, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMissing
	}
	if err != nil {
		return nil, err
	}
	if err := checkDirectory(path, before); err != nil {
		return nil, err
	}
	r, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &root{Root: r, path: path, opening: uuid.NewString()}
	if err := d.take(before); err != nil {
		_ = d.close()
		return nil, err
	}
	return d, nil
}

// take locks the directory and tries what it can do. before is what it was when it was checked.
func (d *root) take(before fs.FileInfo) error {
	if err := d.openSelf(); err != nil {
		return err
	}
	after, err := d.self.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(before, after) {
		return errors.New("was replaced while it was opened")
	}
	d.taken = after
	err = unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w%s: a spool belongs to one lsmtpd, be it a daemon or an operator's \"lsmtpd spool\" command", errLocked, lockedBy(after))
	}
	if err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	return d.tryOut()
}

func (d *root) openSelf() error {
	var err error
	if d.self, err = d.Open("."); err == nil {
		d.fd = int(d.self.Fd())
	}
	return err
}

func (d *root) placed() error {
	now, err := os.Lstat(d.path)
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
	if gone || err == nil && !os.SameFile(now, d.taken) {
		return errAstray
	}
	return nil // or nobody knows, and a start would tell
}

// lockedBy names the process that holds the lock of a directory, "" where the system does not tell: it may be in another container.
func lockedBy(info fs.FileInfo) string {
	locks, err := os.ReadFile("/proc/locks") // "1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF": major and minor in hex
	if err != nil {
		return ""
	}
	st := info.Sys().(*syscall.Stat_t)
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != want {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			return fmt.Sprintf(" (pid %d%s)", pid, commandOf(pid))
		}
	}
	return ""
}

// commandOf is what a process was started as, without its flags: ", lsmtpd spool rm". It is "" where the system does not tell.
func commandOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	words := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	if err != nil || words[0] == "" {
		return ""
	}
	words[0] = filepath.Base(words[0])
	n := 1
	for n < len(words) && n <= 2 && words[n] != "" && words[n][0] != '-' {
		n++
	}
	return ", " + Shown(strings.Join(words[:n], " "))
}

// makeDirectory makes path and what is missing above it, each so that it outlives a crash. It returns what it made, be it in vain:
// the outermost first.
func makeDirectory(path string) (made []string, err error) {
	err = os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil
	}
	parent := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) && parent != path {
		if made, err = makeDirectory(parent); err != nil {
			return made, err
		}
		err = os.Mkdir(path, 0o700)
	}
	if err != nil {
		return made, err
	}
	made = append(made, path)
	above, err := os.Open(parent)
	if err != nil {
		return made, err
	}
	defer above.Close()
	return made, above.Sync()
}

// unmake removes what makeDirectory made, as far as nothing is in it.
func unmake(made []string) {
	for _, path := range slices.Backward(made) {
		if syscall.Rmdir(path) != nil {
			return
		}
	}
}

// checkDirectory refuses what others could put mail into, or take it from. The error says how to mend it.
func checkDirectory(path string, info fs.FileInfo) error {
	quoted := shellQuote(path)
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		return fmt.Errorf("is a symbolic link; name the directory itself in spool.dir, or remove the link: rm %s", quoted)
	case !mode.IsDir():
		return errors.New("is not a directory; name another one in spool.dir")
	case mode&fs.ModeSticky != 0: // everybody's, as /tmp is: it must not be closed, nor be given to anybody
		return fmt.Errorf("is shared with others; name a directory of its own in spool.dir, such as %s", shellQuote(filepath.Join(path, "lsmtpd")))
	}
	uid := os.Geteuid()
	owner, perm := int(info.Sys().(*syscall.Stat_t).Uid), info.Mode().Perm()
	if (owner != uid || perm&0o077 != 0) && hasOther(path) { // to close it, or to take it, would do harm
		return errors.New("is not lsmtpd's alone and holds other things; choose a directory of its own in spool.dir")
	}
	if owner != uid {
		return fmt.Errorf("belongs to uid %d, and lsmtpd runs as uid %d; name another directory in spool.dir, or, if its content is to be trusted: chown -R %d %s",
			owner, uid, uid, quoted)
	}
	if perm&0o077 != 0 {
		return fmt.Errorf("is open to others (mode %04o); close it: chmod 700 %s", perm, quoted)
	}
	return nil
}

// surveyed is how many names of a directory tell what it is.
const surveyed = 1024

// namesIn returns some of the names in a directory; none where it is not there, or not to be read.
func namesIn(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(surveyed)
	return names
}

// isOfSpool tells the names that only a spool has.
func isOfSpool(name string) bool {
	_, isMail := parseName(name)
	return isMail || name == PredecessorsFile
}

// hasOther tells whether a directory holds what is no spool's, and nothing that is.
func hasOther(path string) bool {
	names := namesIn(path)
	return slices.ContainsFunc(names, func(name string) bool { return !ours(name) && !isOfSpool(name) }) &&
		!slices.ContainsFunc(names, isOfSpool)
}

// checkPlace refuses a path inside a spool, whose files would be in one another's way: that of one that is open, or a spool's bad/.
func checkPlace(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	above := filepath.Dir(path)
	isNote := func(name string) bool { return strings.HasSuffix(name, suffix+reasonSuffix) }
	if filepath.Base(path) == badDirectory && (slices.ContainsFunc(namesIn(above), isOfSpool) || slices.ContainsFunc(namesIn(path), isNote)) {
		return fmt.Errorf("is inside the spool %s; choose a directory of its own in spool.dir", Shown(above))
	}
	for ; ; above = filepath.Dir(above) {
		info, err := os.Lstat(above)
		if err == nil && isOurs(info) && lockedBy(info) != "" { // others lock directories, too: systemd-tmpfiles does with /tmp
			return fmt.Errorf("is inside the spool %s, which is open%s; choose a directory of its own in spool.dir", Shown(above), lockedBy(info))
		}
		if above == filepath.Dir(above) {
			return nil
		}
	}
}

// isOurs tells a directory that could be a spool: nobody else may use it.
func isOurs(info fs.FileInfo) bool {
	return info.IsDir() && info.Mode().Perm()&0o077 == 0 && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}

// shellQuote writes a path so that it can be pasted into a shell.
func shellQuote(path string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@"
	if path != "" && strings.Trim(path, plain) == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// tryOut finds out whether files can be made here, and in which way. A full disk answers neither, and stops nobody: it may have
// room later.
func (d *root) tryOut() error {
	err := d.tryCreate()
	if err != nil && !errors.Is(classify(err), ErrFull) {
		d.named = true
		err = d.tryCreate()
	}
	if err != nil && !errors.Is(classify(err), ErrFull) {
		return fmt.Errorf("takes no files: %w", err)
	}
	return nil
}

func (d *root) tryCreate() error {
	f, err := d.create()
	if err != nil {
		return err
	}
	defer f.Close()
	name := d.temporary()
	if err := f.link(name); err != nil {
		return err
	}
	err = d.remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a daemon that was just started took it for what a crash had left
	}
	return err
}
