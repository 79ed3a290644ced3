package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"

	"golang.org/x/sys/unix"
)

const full smtptest.Reply = "452 4.3.1 Insufficient storage, try again later"

// untilFull delivers mails of some 10 KB to addr until one is refused for lack of room, and returns how many were not.
func untilFull(t testing.TB, addr string) (accepted int) {
	t.Helper()
	c := smtptest.Open(t, addr)
	content := "Subject: large\r\n\r\n" + strings.Repeat("some seventy octets of text that make up one line of an ordinary mail\r\n", 140)
	for ; accepted < 1000; accepted++ {
		switch r := c.SendMail("ann@client.example", []string{"bob@example.com"}, content); {
		case r == full:
			return accepted
		case r.Code() != 250:
			t.Fatalf("mail %d: %q", accepted, r)
		}
	}
	t.Fatal("a thousand mails were taken, and there is no room for them")
	return 0
}

func TestA_listener_that_has_spooled_its_share_is_told_452_and_nobody_else_is(t *testing.T) {
	t.Parallel()
	const (
		greedy = "spool: {max_bytes: 100KiB"
		rich   = "spool: {max_bytes: 1MiB"
	)
	c := strings.Replace(config(listener("greedy", "x", "spool_max_bytes: 40%"), listener("modest", "x")), "spool: {", greedy+", ", 1)
	d := startReloadableAway(t, "amqp://guest:guest@127.0.0.1:1/", c)
	first := untilFull(t, d.Addr(t, "greedy"))
	if first != 3 { // of 10.6 KB each
		t.Errorf("%d mails fit in 40 KiB", first)
	}
	deliver(t, d.Addr(t, "modest"), "ann@client.example", "bob@example.com")
	d.apply(strings.Replace(c, greedy, rich, 1))
	if more := untilFull(t, d.Addr(t, "greedy")); more < 30 {
		t.Errorf("%d more mails fit in ten times the room", more)
	}
	d.apply(strings.Replace(c, greedy, rich+", min_free: 1000TiB", 1))
	if n := untilFull(t, d.Addr(t, "modest")); n != 0 {
		t.Errorf("%d mails are taken beyond min_free", n)
	}
	if got := d.status().Spools[0]; got.Files != len(spooled(t, d.Daemon)) || got.LastError != "" {
		t.Errorf("status %+v", got)
	}
}

func TestA_disk_that_is_full_is_told_as_452_and_takes_mail_again_when_the_broker_has_taken_what_lay_there(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	must(t, os.Mkdir(dir, 0o700))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Skipf("no tmpfs can be mounted here (%v): the spool's own tests fill a file system with injected faults", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	must(t, proxy.Refuse(true))
	d := startAway(t, url, strings.Replace(config(listener("in", q.Name)), `dir: "{{.Dir}}/spool"`, `min_free: 0, dir: "`+dir+`"`, 1))
	kept := untilFull(t, d.Addr(t, "in"))
	if kept < 50 {
		t.Errorf("%d mails of 10 KB fit in a mebibyte", kept)
	}
	must(t, proxy.Refuse(false))
	rabbit.Drain(t, q, kept, patience)
	eventually(t, "the spool is empty", func() bool {
		left, err := filepath.Glob(filepath.Join(dir, "*.json"))
		return err == nil && len(left) == 0
	})
	deliver(t, d.Addr(t, "in"), "ann@client.example", "bob@example.com")
	rabbit.Drain(t, q, 1, patience)
}
