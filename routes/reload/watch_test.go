package reload

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// writers are the ways in which a file gets another content. Each is told where the file lies, and what it shall say.
var writers = []struct {
	name  string
	setUp func(s *site) // before the Reloader runs
	write func(s *site, content string)
}{
	{name: "written in place", write: func(s *site, content string) { s.write(content) }},
	{name: "renamed over", write: func(s *site, content string) { s.replace(content) }},
	{name: "moved away and created", write: func(s *site, content string) {
		s.must(os.Rename(s.Path, s.Path+"~"))
		s.write(content)
	}},
	{name: "removed and created", write: func(s *site, content string) {
		s.must(os.Remove(s.Path))
		s.write(content)
	}},
	{
		name: "a mounted ConfigMap, whose directory of data is a link that is renamed over",
		setUp: func(s *site) {
			s.must(os.Mkdir(s.dir+"/..v1", 0o755))
			s.must(os.Rename(s.Path, s.dir+"/..v1/lsmtpd.yaml"))
			s.must(os.Symlink("..v1", s.dir+"/..data"))
			s.must(os.Symlink("..data/lsmtpd.yaml", s.Path))
		},
		write: func(s *site, content string) {
			was, err := os.Readlink(s.dir + "/..data")
			s.must(err)
			s.must(os.Mkdir(s.dir+"/"+was+"v", 0o755))
			s.must(os.WriteFile(s.dir+"/"+was+"v/lsmtpd.yaml", []byte(content), 0o600))
			s.must(os.Symlink(was+"v", s.dir+"/..next"))
			s.must(os.Rename(s.dir+"/..next", s.dir+"/..data"))
			s.must(os.RemoveAll(s.dir + "/" + was))
		},
	},
	{
		name:  "its directory moved away and another moved there",
		setUp: inDirectory,
		write: func(s *site, content string) {
			s.must(os.Mkdir(s.dir+"/next", 0o755))
			s.must(os.WriteFile(s.dir+"/next/lsmtpd.yaml", []byte(content), 0o600))
			s.must(os.Rename(s.dir+"/etc", s.dir+"/"+time.Now().Format("before-150405.000000000")))
			s.must(os.Rename(s.dir+"/next", s.dir+"/etc"))
		},
	},
	{
		name:  "its directory removed and made again",
		setUp: inDirectory,
		write: func(s *site, content string) {
			s.must(os.RemoveAll(s.dir + "/etc"))
			s.must(os.Mkdir(s.dir+"/etc", 0o755))
			s.write(content)
		},
	},
}

// inDirectory puts the file into a directory of its own.
func inDirectory(s *site) {
	s.must(os.Mkdir(s.dir+"/etc", 0o755))
	s.must(os.Rename(s.Path, s.dir+"/etc/lsmtpd.yaml"))
	s.Path = s.dir + "/etc/lsmtpd.yaml"
}

func TestEvents_alone_find_every_way_to_write_a_file_again_and_again(t *testing.T) {
	for _, w := range writers {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, listeners(1000, "a")).blind()
			if w.setUp != nil {
				w.setUp(s)
			}
			s.run()
			for _, names := range []string{"a b", "a b c", "a b c d"} {
				w.write(s, listeners(1000, strings.Fields(names)...))
				s.await(names)
			}
			if st := s.Status(); st.Degraded || st.WatchDegraded != "" {
				t.Errorf("status %+v", st)
			}
		})
	}
}

func TestThe_poll_alone_finds_every_way_to_write_a_file_within_its_interval(t *testing.T) {
	for _, w := range writers {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, listeners(1000, "a")).deaf()
				if w.setUp != nil {
					w.setUp(s)
				}
				s.run()
				for _, names := range []string{"a b", "a b c"} {
					w.write(s, listeners(1000, strings.Fields(names)...))
					time.Sleep(pollInterval + quietTime + time.Millisecond)
					if s.inForce() != names {
						t.Errorf("%q in force, %q written", s.inForce(), names)
					}
				}
				if st := s.Status(); st.Degraded || !strings.Contains(st.WatchDegraded, "no inotify instance left") {
					t.Errorf("status %+v", st)
				}
			})
		})
	}
}

func TestThe_last_content_arrives_even_if_the_file_was_gone_for_long(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, listeners(1000, "a")).deaf().run()
		s.must(os.Remove(s.Path))
		time.Sleep(time.Minute)
		if st := s.Status(); !st.Degraded || st.Errors[0] != s.Path+": does not exist" || s.inForce() != "a" {
			t.Errorf("without the file %+v", st)
		}
		if got := results(s.History()); got != "start applied, watch rejected" {
			t.Errorf("history %s", got)
		}
		s.must(os.Mkdir(s.Path, 0o755))
		time.Sleep(time.Minute)
		if st := s.Status(); !st.Degraded || st.Errors[0] != s.Path+": is a directory, not a file" {
			t.Errorf("with a directory %+v", st)
		}
		s.must(os.Remove(s.Path))
		s.must(os.Symlink("nowhere", s.Path))
		time.Sleep(time.Minute)
		if st := s.Status(); !st.Degraded || st.Errors[0] != s.Path+`: is a link to "nowhere", which does not exist` {
			t.Errorf("with a dangling link %+v", st)
		}
		s.must(os.WriteFile(s.dir+"/nowhere", []byte(listeners(1000, "a", "b")), 0o600))
		time.Sleep(pollInterval + time.Second)
		if s.inForce() != "a b" || s.Status().Degraded {
			t.Errorf("at last %q, %+v", s.inForce(), s.Status())
		}
	})
}

func TestA_file_that_may_not_be_read_is_an_alarm_until_it_may(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	s := newSite(t, listeners(1000, "a")).blind().run()
	s.must(os.Chmod(s.Path, 0))
	if r := s.reload(); r.Result != Rejected || r.Errors[0] != s.Path+": may not be read by this user" {
		t.Errorf("%+v", r)
	}
	s.write(listeners(1000, "a", "b"))
	s.must(os.Chmod(s.Path, 0o600))
	s.await("a b")
}

func TestIncluded_files_and_those_that_are_not_there_yet_are_watched(t *testing.T) {
	t.Parallel()
	s := newSite(t, "include: [\"t/*.yaml\", \"later/deep/x.yaml\"]\ninclude_errors: keep\nlisteners: [{name: main, address: \":1\", exchange: x}]\n").blind().run()
	tenant := func(path, name, port string) {
		s.must(os.MkdirAll(filepath.Dir(s.dir+"/"+path), 0o755))
		s.must(os.WriteFile(s.dir+"/"+path, []byte("listeners: [{name: "+name+", address: \":"+port+"\", exchange: x}]\n"), 0o600))
	}
	tenant("t/a.yaml", "a", "2")
	s.await("main a")
	tenant("t/b.yaml", "b", "3")
	s.await("main a b")
	tenant("later/deep/x.yaml", "x", "4")
	s.await("main a b x")
	s.must(os.Remove(s.dir + "/t/a.yaml"))
	s.await("main b x")
	if w := s.Status().WatchDegraded; w != "" {
		t.Error(w)
	}
}

func TestA_directory_under_two_names_stays_watched_while_either_leads_to_a_source(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.must(os.Mkdir(s.dir+"/real", 0o755))
	s.must(os.Mkdir(s.dir+"/other", 0o755))
	s.must(os.Symlink("real", s.dir+"/link"))
	for _, dir := range []string{"real", "other"} {
		s.must(os.WriteFile(s.dir+"/"+dir+"/main.yaml", []byte("include: [\"../real/t*.yaml\"]\n"+listeners(1000, dir)), 0o600))
	}
	s.must(os.WriteFile(s.dir+"/real/t1.yaml", []byte("listeners: [{name: t1, address: \":1\", exchange: x}]\n"), 0o600))
	s.Path = s.dir + "/link/main.yaml"
	s.blind().run()
	s.must(os.Symlink("other", s.dir+"/next"))
	s.must(os.Rename(s.dir+"/next", s.dir+"/link"))
	s.await("other t1")
	s.must(os.WriteFile(s.dir+"/real/t2.yaml", []byte("listeners: [{name: t2, address: \":2\", exchange: x}]\n"), 0o600))
	s.await("other t1 t2")
}

func TestEvents_of_other_files_beside_the_configuration_wake_nobody(t *testing.T) {
	s := newSite(t, listeners(1000, "a")).blind().run()
	for _, name := range []string{"other.yaml", ".lsmtpd.yaml.swp", "lsmtpd.yaml~", "spool/x.json"} {
		if s.watcher.concerns(fsnotify.Event{Name: s.dir + "/" + name, Op: fsnotify.Write}) {
			t.Errorf("%s does", name)
		}
	}
	if !s.watcher.concerns(fsnotify.Event{Name: s.Path, Op: fsnotify.Write}) {
		t.Error("and the configuration does neither")
	}
}
