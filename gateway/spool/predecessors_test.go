package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lsmtpd/gateway/mail"

	"pgregory.net/rapid"
)

func mustRemember(t testing.TB, s *Spool, paths ...string) {
	t.Helper()
	if err := s.Remember(paths); err != nil {
		t.Fatal(err)
	}
}

func predecessors(t testing.TB, s *Spool) []string {
	t.Helper()
	paths, err := s.Predecessors()
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestRemember_what_it_noted_is_found_again_whatever_the_paths_are(t *testing.T) {
	s := opened(t, spoolDir(t))
	if got := predecessors(t, s); got != nil {
		t.Errorf("a new spool remembers %q", got)
	}
	rapid.Check(t, func(r *rapid.T) {
		names := rapid.OneOf(rapid.StringN(1, 20, -1), rapid.SampledFrom([]string{"a\nb", "\xff\n", "\r", ` "quoted" `, "ä b"}))
		paths := rapid.SliceOf(rapid.Map(names, func(name string) string { return "/" + name })).Draw(r, "paths")
		mustRemember(t, s, paths...)
		if got := predecessors(t, s); !slices.Equal(got, paths) {
			r.Fatalf("it remembers %q, not %q", got, paths)
		}
	})
	mustRemember(t, s, "/var/spool/a b", "/x")
	if b, err := os.ReadFile(filepath.Join(s.path, PredecessorsFile)); string(b) != "/var/spool/a b\n/x\n" || err != nil {
		t.Errorf("an operator reads %q, %v", b, err)
	}
	mustRemember(t, s)
	mustRemember(t, s)
	if names := files(t, s.path); len(names) > 0 {
		t.Errorf("files %v", names)
	}
}

func TestRemember_a_crash_at_any_step_leaves_what_was_noted_before_or_after(t *testing.T) {
	for at := 1; ; at++ {
		dir := spoolDir(t)
		real, err := openDirectory(dir)
		if err != nil {
			t.Fatal(err)
		}
		d := &stepped{directory: real, dies: true, err: errDead}
		s := start(Options{Dir: dir}, d)
		indexedNow(s)
		mustRemember(t, s, "/a")
		d.mu.Lock()
		d.at = len(d.calls) + at
		d.mu.Unlock()
		err = s.Remember([]string{"/a", "/b"})
		_ = s.Close()
		got := predecessors(t, opened(t, dir))
		if before, after := slices.Equal(got, []string{"/a"}), slices.Equal(got, []string{"/a", "/b"}); !before && !after || err == nil && !after {
			t.Errorf("died at step %d, error %v: it remembers %q", at, err, got)
		}
		if err == nil {
			if at < 5 {
				t.Errorf("only %d steps", at)
			}
			return
		}
	}
}

func TestRemember_is_no_mail_to_anybody(t *testing.T) {
	dir := spoolDir(t)
	s := mustOpen(t, dir)
	mustRemember(t, s, "/a")
	putReady(t, s, mail.JSON, "x")
	mustClose(t, s)
	s = opened(t, dir)
	indexedNow(s)
	if st := s.Status(); st.Files != 1 || st.Unreadable != 0 || st.NoDestination != 0 {
		t.Errorf("status %+v", st)
	}
	replayed(t, s, 1)
	if got := predecessors(t, s); !slices.Equal(got, []string{"/a"}) {
		t.Errorf("it remembers %q", got)
	}
}

func TestRemember_tells_which_file_cannot_be_written_or_read(t *testing.T) {
	dir := spoolDir(t)
	s, d := openFaulty(t, dir, false, syscall.EACCES)
	defer mustClose(t, s)
	indexedNow(s)
	for _, call := range []string{"create", "write", "fsync", "replace", "sync"} {
		d.breaks(call)
		if err := s.Remember([]string{"/a"}); !errors.Is(err, syscall.EACCES) || !strings.HasPrefix(err.Error(), dir+"/predecessors: ") {
			t.Errorf("%s fails: %v", call, err)
		}
	}
	d.breaks("open")
	if _, err := s.Predecessors(); !errors.Is(err, syscall.EACCES) || !strings.HasPrefix(err.Error(), dir+"/predecessors: ") {
		t.Error(err)
	}
	d.breaks("")
	if err := os.Remove(filepath.Join(dir, PredecessorsFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, PredecessorsFile), make([]byte, maxPredecessors+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Predecessors(); err == nil || !strings.Contains(err.Error(), "has 1048577 octets") {
		t.Error(err)
	}
}

func TestAbandon_removes_the_directories_that_Open_made_where_nothing_is_in_them(t *testing.T) {
	top := t.TempDir()
	abandon := func(dir string) {
		t.Helper()
		s := mustOpen(t, dir)
		if err := s.Abandon(); err != nil {
			t.Error(err)
		}
	}
	abandon(filepath.Join(top, "made", "too", "spool"))
	if names := files(t, top); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	if err := os.Mkdir(filepath.Join(top, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	abandon(filepath.Join(top, "there"))
	abandon(filepath.Join(top, "there", "spool"))
	if names := files(t, top); !slices.Equal(names, []string{"there"}) {
		t.Errorf("left: %v", names)
	}
	dir := filepath.Join(top, "with mail", "spool")
	s := mustOpen(t, dir)
	putReady(t, s, mail.JSON, "x")
	if err := s.Abandon(); err != nil {
		t.Error(err)
	}
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("left of a mail: %v", names)
	}
	if err := os.WriteFile(filepath.Join(top, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: filepath.Join(top, "file", "spool")}); err == nil {
		t.Error("opened below a file")
	}
	if _, err := Open(Options{Dir: filepath.Join(top, "new", strings.Repeat("n", 256))}); err == nil {
		t.Error("opened with a name that no file system takes")
	}
	if names := files(t, top); !slices.Equal(names, []string{"file", "there", "with mail"}) {
		t.Errorf("an Open in vain left: %v", names)
	}
}

func TestOpen_of_what_must_exist_makes_nothing(t *testing.T) {
	dir := spoolDir(t)
	if _, err := Open(Options{Dir: dir, Existing: true}); errText(err) != "spool "+dir+": there is no such directory" {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it is there")
	}
}

func TestPredecessors_that_a_start_could_not_open_are_told_by_a_check(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	s := mustOpen(t, in("new"))
	mustRemember(t, s, in("former"), in("gone"), in("open"), "no path\x1b[2J", "/"+strings.Repeat("x", maxPath), in("new"))
	mustClose(t, s)
	s = opened(t, in("former")) // as a daemon has it
	mustRemember(t, s, in("new"), in("older"))
	for name, mode := range map[string]os.FileMode{"open": 0o755, "older": 0o700} {
		if err := os.Mkdir(in(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(in("older/predecessors"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	var got []string
	for _, err := range CheckPredecessors("new") {
		got = append(got, err.Error())
	}
	want := []string{
		"spool " + in("gone") + ": there is no such directory",
		"spool " + in("open") + ": is open to others (mode 0755); close it: chmod 700 " + in("open"),
		`spool "no path\x1b[2J": is no absolute path`,
		"spool /" + strings.Repeat("x", maxShown-1) + "…: has 4097 octets, which is too long for a path",
		in("older/predecessors") + ": unreadable: not a regular file",
	}
	if !slices.Equal(got, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := CheckPredecessors("nowhere"); got != nil {
		t.Errorf("where there is no spool: %v", got)
	}
	if left := files(t, in("new")); !slices.Equal(left, []string{PredecessorsFile}) {
		t.Errorf("left: %v", left)
	}
}

func TestPredecessors_that_cannot_be_read_are_told_by_the_status_until_they_can(t *testing.T) {
	dir := spoolDir(t)
	s := opened(t, dir)
	file := filepath.Join(dir, PredecessorsFile)
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Predecessors(); err == nil || s.Status().Forgot != err.Error() {
			t.Errorf("error %v, status %+v", err, s.Status())
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := predecessors(t, s); got != nil || s.Status().Forgot != "" {
		t.Errorf("an empty file notes %q, status %+v", got, s.Status())
	}
}
