package spool

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/logtest"
	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

func TestOpen_makes_the_directory_for_its_owner_only(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing", "too", "spool")
	opened(t, dir)
	for _, path := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func TestCheck_finds_out_as_Open_does_whether_files_can_be_made_and_leaves_none(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	opened(t, there) // a daemon has it
	before := files(t, there)
	for _, path := range []string{there, there + "/", filepath.Join(dir, "not", "there")} {
		if err := Check(path); err != nil {
			t.Error(err)
		}
	}
	if after := files(t, there); len(after) != len(before) {
		t.Errorf("files %v, before %v", after, before)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside it: %v, %v", left, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proc/lsmtpd", "/proc/not/there", filepath.Join(file, "below")} {
		err := Check(path)
		if err == nil {
			t.Errorf("%s would do", path)
		}
		if s, opening := Open(Options{Dir: path}); opening == nil {
			mustClose(t, s)
			t.Errorf("Open takes %s: %v", path, err)
		}
	}
}

func TestCheck_refuses_a_directory_that_nothing_can_be_written_to(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	if err := mkdirMode(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+i", dir).CombinedOutput(); err != nil {
		t.Skipf("it cannot be made immutable: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("chattr", "-i", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), "takes no files: ") {
		t.Errorf("an immutable directory: %v", err)
	}
	if err := Check(filepath.Join(dir, "below")); err == nil || !strings.Contains(err.Error(), "cannot be made: ") {
		t.Errorf("below an immutable directory: %v", err)
	}
}

func TestOpen_refuses_a_directory_that_is_not_ours_alone_and_says_what_mends_it(t *testing.T) {
	for name, c := range map[string]struct {
		arrange func(t *testing.T, dir string) error
		want    string // behind "spool DIR: "
	}{
		"open to others":  {func(_ *testing.T, dir string) error { return mkdirMode(dir, 0o755) }, "is open to others (mode 0755); close it: chmod 700 'DIR'"},
		"open to a group": {func(_ *testing.T, dir string) error { return mkdirMode(dir, 0o710) }, "is open to others (mode 0710); close it: chmod 700 'DIR'"},
		"a symbolic link": {func(t *testing.T, dir string) error { return os.Symlink(t.TempDir(), dir) },
			"is a symbolic link; name the directory itself in spool.dir, or remove the link: rm 'DIR'"},
		"everybody's": {func(_ *testing.T, dir string) error { return mkdirMode(dir, 0o777|os.ModeSticky) },
			"is shared with others; name a directory of its own in spool.dir, such as SUBDIR"},
		"a file": {func(_ *testing.T, dir string) error { return os.WriteFile(dir, nil, 0o600) }, "is not a directory; name another one in spool.dir"},
		"somebody else's": {func(t *testing.T, dir string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			if err := mkdirMode(dir, 0o700); err != nil {
				return err
			}
			return os.Chown(dir, 12345, 12345)
		}, "belongs to uid 12345, and lsmtpd runs as uid 0; name another directory in spool.dir, or, if its content is to be trusted: chown -R 0 'DIR'"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "it's a spool")
			if err := c.arrange(t, dir); err != nil {
				t.Fatal(err)
			}
			want := "spool " + dir + ": " + strings.NewReplacer("'DIR'", shellQuote(dir), "SUBDIR", shellQuote(dir+"/lsmtpd")).Replace(c.want)
			for _, path := range []string{dir, dir + "/"} {
				s, err := Open(Options{Dir: path})
				if err == nil {
					mustClose(t, s)
				}
				if got := strings.Replace(errText(err), path+":", dir+":", 1); got != want {
					t.Errorf("error %s\nwant  %s", got, want)
				}
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return "nil"
	}
	return err.Error()
}

func mkdirMode(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode) // past the umask
}

func TestOpen_the_remedy_can_be_pasted_into_a_shell(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a spool; $(false)")
	if err := mkdirMode(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Dir: dir})
	if err == nil {
		t.Fatal("opened")
	}
	_, remedy, _ := strings.Cut(err.Error(), "close it: ")
	if out, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", remedy, err, out)
	}
	opened(t, dir)
}

func TestOpen_refuses_a_directory_that_another_has_open(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	second, err := Open(Options{Dir: dir})
	if err == nil {
		mustClose(t, second)
	}
	const who = `a spool belongs to one lsmtpd, be it a daemon or an operator's "lsmtpd spool" command`
	holder := fmt.Sprintf(" (pid %d, %s)", os.Getpid(), filepath.Base(os.Args[0]))
	want := fmt.Sprintf("spool %s: another process has it open%s: %s", dir, holder, who)
	if got := errText(err); got != want && got != strings.Replace(want, holder, "", 1) { // not every file system's locks can be told
		t.Errorf("error %s\nwant  %s", got, want)
	}
	mustClose(t, s)
	opened(t, dir)
}

func TestOpen_refuses_a_directory_that_takes_no_files(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root writes into every directory")
	}
	dir := spoolDir(t)
	if err := mkdirMode(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "takes no files") {
		t.Errorf("error %v", err)
	}
}

func TestCreate_without_O_TMPFILE_a_temporary_name_is_renamed(t *testing.T) {
	dir := spoolDir(t)
	d, err := openDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.named = true
	s := start(Options{Dir: dir}, d)
	defer mustClose(t, s)
	indexedNow(s)

	f, err := d.create()
	if err != nil {
		t.Fatal(err)
	}
	names := files(t, dir)
	if len(names) != 1 || names[0] != "."+d.opening+".2.tmp" {
		t.Errorf("while it is written: files %v", names)
	}
	if info, err := os.Stat(filepath.Join(dir, names[0])); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, error %v", info, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("after it was given up: files %v", names)
	}

	m := putReady(t, s, mail.JSON, "x")
	if names := files(t, dir); len(names) != 1 || names[0] != fileName(m.ID) {
		t.Errorf("after Put: files %v", names)
	}
	replayed(t, s, 1)
}

func TestCreate_with_O_TMPFILE_nothing_has_a_name_before_it_is_whole(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	if s.dir.(*root).named {
		t.Skip("this file system has no O_TMPFILE")
	}
	f, err := s.dir.create()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names := files(t, dir); len(names) != 0 {
		t.Errorf("files %v", names)
	}
}

func TestWarning_tells_what_does_not_survive_a_reboot(t *testing.T) {
	const disk = unix.EXT4_SUPER_MAGIC
	for _, c := range []struct {
		path   string
		fsType int64
		want   string // "" for no warning
	}{
		{"/var/lib/lsmtpd/spool", disk, ""},
		{"/tmpfoo/spool", disk, ""},
		{"/tmp", disk, "below /tmp,"},
		{"/tmp/lsmtp", disk, "below /tmp,"},
		{"/var/tmp/lsmtp", disk, "below /var/tmp,"},
		{"/run/spool", unix.TMPFS_MAGIC, "on tmpfs"},
		{"/tmp/spool", unix.TMPFS_MAGIC, "on tmpfs"},
		{"/spool", unix.RAMFS_MAGIC, "on ramfs"},
		{"/spool", unix.OVERLAYFS_SUPER_MAGIC, "on an overlay"},
	} {
		got := warning(c.path, c.fsType)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: warning %q, want one with %q", c.path, got, c.want)
		}
	}
}

func TestWarning_looks_at_the_file_system_that_will_hold_the_directory(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is no tmpfs here")
	}
	if got := Warning("/dev/shm/not/made/yet"); !strings.Contains(got, "on tmpfs") {
		t.Errorf("warning %q", got)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/shm", link); err != nil {
		t.Fatal(err)
	}
	if got := Warning(link + "/spool"); !strings.Contains(got, "on tmpfs") {
		t.Errorf("through a link: warning %q", got)
	}
}

func TestShortage_tells_of_a_file_system_whose_room_is_too_little_already(t *testing.T) {
	for _, c := range []struct {
		blocks, free uint64 // of 4 KiB
		minFree      int64
		want         string // "" for no warning
	}{
		{100, 10, 0, ""},
		{100, 10, 40959, ""},
		{100, 10, 40960, "40960 octets are free on the spool's file system, and spool.min_free is 40960:"},
		{100, 0, 1, "0 octets are free"},
		{0, 0, 1, "does not tell what is free, and spool.min_free is 1: no mail is spooled there; set spool.min_free to 0"}, // ramfs
		{0, 0, 0, ""},
	} {
		got := shortage(unix.Statfs_t{Blocks: c.blocks, Bavail: c.free, Bsize: 4096}, c.minFree)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c, got)
		}
	}
	dir := filepath.Join(spoolDir(t), "not/made/yet")
	if got := Shortage(dir, math.MaxInt64); got == "" {
		t.Error("no disk has that much")
	}
	if got := Shortage(dir, 1); got != "" {
		t.Error(got)
	}
}

func TestWarning_is_logged_at_Open_and_shown_by_Status(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "spool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var log logtest.Buffer
	s, err := Open(Options{Dir: dir, Log: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	if s.Warning() == "" || s.Status().Warning != s.Warning() || !strings.Contains(log.String(), s.Warning()) {
		t.Errorf("warning %q, log %s", s.Warning(), log.String())
	}
}

func TestA_directory_that_was_moved_away_takes_no_mail_until_it_is_back(t *testing.T) {
	dir := spoolDir(t)
	var log logtest.Buffer
	s, err := Open(Options{Dir: dir, Log: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	putReady(t, s, mail.JSON, "before")
	for _, c := range []struct {
		what       string
		away, mend func() error
	}{
		{"moved", func() error { return os.Rename(dir, dir+".old") }, func() error { return os.Rename(dir+".old", dir) }},
		{"replaced", func() error { return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700)) },
			func() error { return errors.Join(os.Remove(dir), os.Rename(dir+".old", dir)) }},
	} {
		if err := c.away(); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(someDelivery(mail.JSON, []byte("x"))); !errors.Is(err, ErrFull) {
			t.Errorf("%s: %v", c.what, err)
		}
		if names := files(t, dir+".old"); len(names) != 1 {
			t.Errorf("%s: %v", c.what, names)
		}
		if st := s.Status(); st.Astray == "" || st.Files != 1 {
			t.Errorf("%s: status %+v", c.what, st)
		}
		if err := c.mend(); err != nil {
			t.Fatal(err)
		}
		if st := s.Status(); st.Astray != "" {
			t.Errorf("%s and back: status %+v", c.what, st)
		}
	}
	putReady(t, s, mail.JSON, "after")
	if text := log.String(); strings.Count(text, "not at its path: no mail is taken") != 2 || strings.Count(text, "at its path again") != 2 {
		t.Error(text)
	}
}

func TestOpen_asks_for_a_directory_of_its_own_where_there_are_other_things(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		_, err := Open(Options{Dir: dir})
		if checked := Check(dir); errText(checked) != errText(err) || !strings.Contains(errText(err), want) {
			t.Errorf("opened: %v; checked: %v", err, checked)
		}
	}
	refused("close it: chmod 700 " + dir)
	if err := os.WriteFile(filepath.Join(dir, "passwd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("holds other things; choose a directory of its own in spool.dir")
	if err := os.WriteFile(filepath.Join(dir, fileName(uuid.New())), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("close it: chmod 700 " + dir) // a spool, beside whatever
}

func TestOpen_refuses_a_directory_inside_a_spool(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	inside := []string{filepath.Join(dir, badDirectory), filepath.Join(dir, "sub", "spool")}
	refused := func(path string) {
		t.Helper()
		_, err := Open(Options{Dir: path})
		if want := "is inside the spool " + dir; !strings.Contains(errText(err), want) || !strings.Contains(errText(Check(path)), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range inside {
		refused(path)
	}
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("made: %v", names)
	}
	putReady(t, s, mail.JSON, "x")
	mustClose(t, s)
	refused(inside[0])
	mustClose(t, mustOpen(t, filepath.Join(t.TempDir(), badDirectory))) // only its name is the same

	shared := filepath.Join(t.TempDir(), "shared") // and locked, as systemd-tmpfiles does
	if err := mkdirMode(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(shared)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, filepath.Join(shared, "spool")))
}

func TestOpen_waits_for_a_directory_that_another_is_about_to_give_up(t *testing.T) {
	dir := spoolDir(t)
	first := mustOpen(t, dir)
	var log logtest.Buffer
	opened := make(chan error, 1)
	go func() {
		s, err := Open(Options{Dir: dir, Patience: time.Minute, Log: log.Logger()})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	for !strings.Contains(log.String(), "is locked: waiting") {
		time.Sleep(time.Millisecond) // between two looks
	}
	mustClose(t, first)
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
