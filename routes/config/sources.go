package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Sources is what a Config depends on outside of itself, as it was when it was read.
type Sources struct {
	// Paths are absolute and sorted: every file that was read or is missing, every symbolic link on the way to one, and every
	// directory that a pattern of include looks into. Events come from the directories that hold them.
	Paths []string

	stamps  []stamp // of Paths
	torn    string
	passing bool
}

// Torn says why a file looks like half a write, or "". It changed while it was read, somebody has it open for writing, it is
// empty, or it lacks its last newline; but a file that nobody has written to for 5 s is what it is.
func (s Sources) Torn() string { return s.torn }

// Passing tells whether something could not be read for a cause that may pass while every source stays what it is, like a want
// of descriptors.
func (s Sources) Passing() bool { return s.passing }

// Changed looks at every source again, and tells whether one of them is not what it was before the reading.
func (s Sources) Changed() bool {
	for i, path := range s.Paths {
		if look(path) != s.stamps[i] {
			return true
		}
	}
	return false
}

// stamp is what shows that a file, link or directory is still the same. The zero stamp is of one that is not there.
type stamp struct {
	device, inode  uint64
	size           int64
	mode           fs.FileMode
	modified, made int64 // nanoseconds; made is the inode's own change: a chmod shows there
}

// look returns path's stamp; a symbolic link's own.
func look(path string) stamp {
	info, err := os.Lstat(path)
	if err != nil {
		return stamp{}
	}
	return stampOf(info)
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mode: info.Mode(), modified: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode, s.made = sys.Dev, sys.Ino, sys.Ctim.Nano()
	}
	return s
}

// depend remembers path with every symbolic link on the way to it: where one of these changes, path may lead elsewhere.
func (f *files) depend(path string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	for range maxLinks {
		f.remember(path)
		link, rest := firstLink(path)
		if link == "" {
			return
		}
		f.remember(link)
		to, err := os.Readlink(link)
		if err != nil {
			return
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(link), to)
		}
		path = filepath.Join(to, rest)
	}
}

// remember takes path's stamp, the first time: what is read later may be newer, and is then found changed.
func (f *files) remember(path string) {
	if _, known := f.stamps[path]; !known {
		f.stamps[path] = look(path)
	}
}

// firstLink returns the first element of path that is a symbolic link, and what follows it.
func firstLink(path string) (link, rest string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		if info, err := os.Lstat(path[:i]); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return path[:i], path[i:]
		}
	}
	return "", ""
}

// sources returns what the content read depends on.
func (f *files) sources() Sources {
	s := Sources{torn: f.torn, passing: f.passing}
	for path := range f.stamps {
		s.Paths = append(s.Paths, path)
	}
	slices.Sort(s.Paths)
	for _, path := range s.Paths {
		s.stamps = append(s.stamps, f.stamps[path])
	}
	return s
}
