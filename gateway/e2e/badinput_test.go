package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
)

// nowhere is a broker that is not there: these tests need none.
const nowhere = "amqp://guest:guest@127.0.0.1:1/"

func TestA_broken_file_gives_every_error_with_its_place_and_exit_78(t *testing.T) {
	t.Parallel()
	broken, err := os.ReadFile(filepath.Join("testdata", "broken.yaml"))
	must(t, err)
	golden, err := os.ReadFile(filepath.Join("testdata", "broken.golden"))
	must(t, err)
	want := slices.Collect(strings.Lines(string(golden)))
	for _, command := range []string{"check", "run"} {
		t.Run(command, func(t *testing.T) {
			o := options(t, nowhere, string(broken))
			o.Args = []string{command}
			d := daemon.Run(t, o)
			if code := d.ExitCode(t); code != 78 {
				t.Errorf("exit status %d, want 78", code)
			}
			var got []string
			for _, l := range d.Lines(0) {
				if l.Field("msg") == "" { // not the log's, which says it for machines
					got = append(got, l.Text+"\n")
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("it says\n%s\nwant\n%s", strings.Join(got, ""), golden)
			}
		})
	}
}

func TestWhat_stands_in_the_way_of_a_start_is_named_with_what_mends_it_and_exit_1(t *testing.T) {
	t.Parallel()
	held, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { held.Close() })
	open := filepath.Join(t.TempDir(), "open")
	must(t, os.Mkdir(open, 0o755))
	must(t, os.Chmod(open, 0o755)) // whatever the umask
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(t.TempDir(), link))

	base := config(listener("first", "x"), listener("second", "x"))
	for _, c := range []struct {
		name, config string
		says         []string // all in one line of level ERROR
	}{
		{"a port in use", strings.Replace(base, `{{addr "second"}}`, held.Addr().String(), 1),
			[]string{"lsmtpd.yaml:8:29: listeners[1].address", held.Addr().String(), "in use"}},
		{"a spool that is open to others", strings.Replace(base, "{{.Dir}}/spool", open, 1),
			[]string{"spool.dir", open, "open to others", "chmod 700 " + open}},
		{"a spool that is a symbolic link", strings.Replace(base, "{{.Dir}}/spool", link, 1),
			[]string{"spool.dir", link, "symbolic link"}},
		{"an admin socket that cannot be made", strings.Replace(base, "{{.Dir}}/admin.sock", "/proc/nowhere/admin.sock", 1),
			[]string{"admin.socket", "/proc/nowhere"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := daemon.Run(t, options(t, nowhere, c.config))
			if code := d.ExitCode(t); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			told := slices.ContainsFunc(d.Lines(0), func(l daemon.Line) bool {
				return l.Field("level") == "ERROR" && !slices.ContainsFunc(c.says, func(s string) bool { return !strings.Contains(l.Text, s) })
			})
			if !told {
				t.Errorf("no line of level ERROR says %q:\n%s", c.says, d.Text())
			}
			if strings.Contains(d.Text(), `"msg":"listening"`) {
				t.Errorf("it claims to listen:\n%s", d.Text())
			}
		})
	}
}

func TestA_second_daemon_on_the_same_spool_is_refused_and_the_first_goes_on(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	first := start(t, url, config(listener("in", q.Name)))
	second := daemon.Run(t, options(t, url, strings.Replace(config(listener("in", q.Name)), "{{.Dir}}/spool", first.Dir()+"/spool", 1)))
	if code := second.ExitCode(t); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	if !strings.Contains(second.Text(), "another process has it open") {
		t.Errorf("it says %s", second.Text())
	}
	deliver(t, first.Addr(t, "in"), "ann@client.example", "bob@example.com")
	rabbit.Drain(t, q, 1, patience)
}

func TestA_broker_that_refuses_the_password_is_away_and_the_password_is_not_told(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	d := startAway(t, fmt.Sprintf("amqp://guest:hunter2@%s/", node.Addr()), config(listener("in", "x")))
	id := deliver(t, d.Addr(t, "in"), "ann@client.example", "bob@example.com")
	wantSpool(t, d, []string{inSpool("x", id, "bob@example.com")})
	// The start does not wait for an answer that takes its time, as this one does: the next attempt has it.
	d.Await(t, "why the broker is away", 0, func(l daemon.Line) bool {
		return says("broker")(l) && l.Field("error") == "broker "+node.Addr()+" refuses the user or the password"
	})
	if strings.Contains(d.Text(), "hunter2") {
		t.Errorf("the log tells the password:\n%s", d.Text())
	}
}
