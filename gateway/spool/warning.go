package spool

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Warning tells why mail spooled in dir would not outlive a reboot; "" where nothing speaks against it. dir need not exist yet.
func Warning(dir string) string {
	path, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	existing, fs := fileSystem(path)
	if real, err := filepath.EvalSymlinks(existing); err == nil {
		path = filepath.Join(real, path[len(existing):])
	}
	return warning(path, int64(fs.Type))
}

// fileSystem returns the file system that an absolute path is on, or would be, and what is there of the path.
func fileSystem(path string) (existing string, fs unix.Statfs_t) {
	existing = path
	for unix.Statfs(existing, &fs) != nil && existing != "/" {
		existing = filepath.Dir(existing)
	}
	return existing, fs
}

// Shortage tells why a spool in dir would refuse every mail as the file system is now; "" where more than minFree octets are free. dir
// need not exist yet.
func Shortage(dir string, minFree int64) string {
	path, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	_, fs := fileSystem(path)
	return shortage(fs, minFree)
}

func shortage(fs unix.Statfs_t, minFree int64) string {
	free := int64(fs.Bavail) * fs.Bsize
	switch {
	case minFree <= 0 || free > minFree:
		return ""
	case fs.Blocks == 0:
		return fmt.Sprintf("the spool's file system does not tell what is free, and spool.min_free is %d: no mail is spooled there; set spool.min_free to 0", minFree)
	}
	return fmt.Sprintf("%d octets are free on the spool's file system, and spool.min_free is %d: no mail is spooled until there is more room", free, minFree)
}

// warning judges a path without symbolic links and the type of its file system.
func warning(path string, fsType int64) string {
	const lost = ": spooled mail does not survive a reboot there; set spool.dir to a directory on disk"
	switch uint32(fsType) {
	case unix.TMPFS_MAGIC:
		return "the spool is on tmpfs, in memory" + lost
	case unix.RAMFS_MAGIC:
		return "the spool is on ramfs, in memory" + lost
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "the spool is on an overlay, which goes with its container" + lost
	}
	for _, temp := range []string{"/tmp", "/var/tmp"} {
		if path == temp || strings.HasPrefix(path, temp+"/") {
			return "the spool is below " + temp + ", which systems clear" + lost
		}
	}
	return ""
}
