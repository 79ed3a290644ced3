package spool

import (
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
	existing := path
	var fs unix.Statfs_t
	for unix.Statfs(existing, &fs) != nil && existing != "/" {
		existing = filepath.Dir(existing)
	}
	if real, err := filepath.EvalSymlinks(existing); err == nil {
		path = filepath.Join(real, path[len(existing):])
	}
	return warning(path, int64(fs.Type))
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
