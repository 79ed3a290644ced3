package e2e

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
)

func TestA_tail_goes_on_when_a_reload_moves_the_admin_socket(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := startReloadable(t, url, config(listener("in", q.Name)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tail := exec.CommandContext(ctx, daemon.Binary(t), "tail", "-n", "1", "--raw", "--socket", d.client.Socket)
	var mail strings.Builder
	tail.Stdout = &mail
	complaints, err := tail.StderrPipe()
	must(t, err)
	must(t, tail.Start())
	said := bufio.NewScanner(complaints)
	if !said.Scan() || !strings.HasPrefix(said.Text(), "Watching ") {
		t.Fatalf("tail says %q", said.Text())
	}
	old := d.client.Socket
	moved := strings.Replace(d.content(), old, old+"2", 1)
	d.put(moved)
	if r := d.reload(); r.Result != "applied" {
		t.Fatal(r)
	}
	d.client.Socket = old + "2"
	eventually(t, "the old socket is gone", func() bool { _, err := os.Lstat(old); return err != nil })
	deliver(t, d.Addr(t, "in"), "ann@client.example", "bob@example.com")
	for said.Scan() {
		t.Errorf("tail says %q", said.Text())
	}
	if err := tail.Wait(); err != nil || !strings.Contains(mail.String(), "Received: ") {
		t.Errorf("tail ended: %v, and printed %q", err, mail.String())
	}
	d.status() // at the new one
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}
