package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes/reload"
)

// TestMail_in_a_spool_that_a_reload_left_is_found_after_a_restart stops the daemon twice, once without a word of warning, before the
// broker is there.
func TestMail_in_a_spool_that_a_reload_left_is_found_after_a_restart(t *testing.T) {
	t.Parallel()
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	nobody, err := faultnet.Port()
	must(t, err)
	away := config(listener("in", q.Name))
	d := startReloadableAway(t, fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", nobody), away)
	in := func(dir string) string { return strings.Replace(away, "{{.Dir}}/spool", "{{.Dir}}/"+dir, 1) }
	want := map[string]bool{}
	send := func() { want[deliver(t, d.Addr(t, "in"), "ann@client.example", "bob@example.com")] = true }
	var spools []string
	look := func() string {
		spools = nil
		for _, s := range d.status().Spools {
			spools = append(spools, fmt.Sprintf("%s %d", filepath.Base(s.Dir), s.Files))
		}
		return strings.Join(spools, ", ")
	}

	send()
	send()
	d.apply(in("s2"))
	send()
	d.Signal(t, syscall.SIGKILL)
	<-d.Done()
	d.Restart(t)
	eventually(t, "both spools are counted", func() bool { return look() == "s2 1, spool 2" })
	d.apply(in("s3"))
	send()
	if code := d.Stop(t); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	var told []string
	for _, l := range said(d.Daemon, "mail waits in a spool that is not in use any more: the next start replays it") {
		told = append(told, filepath.Base(l.Field("dir"))+" "+l.Field("files"))
	}
	if got := strings.Join(told, ", "); got != "s2 1, spool 2" {
		t.Errorf("at its end it told of %q", got)
	}
	out, status := operator(t, d.Daemon, "ls", "--json")
	for id := range want {
		if status != 0 || !strings.Contains(out, id) {
			t.Errorf("without a daemon, exit status %d, %s is not in:\n%s", status, id, out)
		}
	}

	d.put(strings.Replace(in("s3"), "{{.AMQP}}", node.URL(), 1))
	d.Restart(t)
	for _, m := range rabbit.Drain(t, q, len(want), patience) {
		if !want[m.MessageId] {
			t.Errorf("%s came, and nobody sent it", m.MessageId)
		}
		delete(want, m.MessageId)
	}
	if len(want) > 0 {
		t.Errorf("not delivered: %v", want)
	}
	eventually(t, "only the spool in use is left", func() bool { return look() == "s3 0" })
	if left, err := filepath.Glob(d.Dir() + "/s*/*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if r := d.reload(); r.Result != reload.Unchanged || len(r.Warnings) > 0 {
		t.Errorf("%s", r)
	}
}
