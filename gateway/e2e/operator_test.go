package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"

	"github.com/google/uuid"
)

// operator runs "lsmtpd spool" with args on d's configuration, whether d runs or not.
func operator(t testing.TB, d *daemon.Daemon, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, daemon.Binary(t), append([]string{"spool"}, append(args, "-c", d.ConfigPath())...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// wantReplayed demands what a replay says in its first line, and its exit status.
func wantReplayed(t *testing.T, output string, status int, want string) {
	t.Helper()
	first, _, _ := strings.Cut(output, "\n")
	wanted := 0
	if !strings.HasSuffix(want, " delivered") {
		wanted = 1
	}
	if first != want || status != wanted {
		t.Errorf("exit status %d, want %d, and first line %q of:\n%s", status, wanted, want, output)
	}
}

func TestAn_operator_replays_spooled_mail_where_it_belongs_or_elsewhere_with_the_daemon_and_without(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	good, dead := rabbit.Queue(t, url), nobodys(t, url)
	d := start(t, url, config(listener("in", dead, `routes: [{match: {recipient: raw.example}, format: raw}]`)))
	asJSON := deliver(t, d.Addr(t, "in"), "ann@client.example", "one@example.com")
	asRaw := deliver(t, d.Addr(t, "in"), "ann@client.example", "two@raw.example")

	steps := func(t *testing.T, id string, more ...string) {
		out, status := operator(t, d, "replay", id)
		wantReplayed(t, out, status, "1 mail: 1 refused")
		if !strings.Contains(out, id) || !strings.Contains(out, "NO_ROUTE") {
			t.Errorf("the reason is not in:\n%s", out)
		}
		for _, typo := range []string{good.Name + "x:k", ":" + good.Name + "x"} {
			out, status = operator(t, d, "replay", "--to", typo, id)
			if status != 1 || !strings.Contains(out, "there is no such destination, and nothing is changed: NOT_FOUND - no ") {
				t.Errorf("to %s: exit status %d: %s", typo, status, out)
			}
		}
		out, status = operator(t, d, append([]string{"replay", "--to", good.Name + ":else:where"}, more...)...)
		wantReplayed(t, out, status, "1 mail: 1 delivered")
		if got := rabbit.Drain(t, good, 1, patience)[0]; got.MessageId != id || got.RoutingKey != "else:where" {
			t.Errorf("message %s with key %q arrived of mail %s", got.MessageId, got.RoutingKey, id)
		}
		out, status = operator(t, d, "show", id)
		if status != 1 || !strings.Contains(out, "no mail in the spool has the id "+id) {
			t.Errorf("exit status %d: %s", status, out)
		}
	}
	t.Run("through the daemon", func(t *testing.T) { steps(t, asJSON, asJSON[:13]) })
	if code := d.Stop(t); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	t.Run("straight to the broker", func(t *testing.T) { steps(t, asRaw, "--recipient", "raw.example") })

	t.Run("a file of LSMTPD's own", func(t *testing.T) {
		id := uuid.NewString()
		text := fmt.Sprintf(`{"timestamp": "2025-09-23T23:18:51.477629045+00:00", "message_id": %q, "client_address": "c", "recipients": ["bob@example.net"], "email_content": "Subject: old\r\n\r\nhi\r\n", "sender": "ann@example.com"}`, id)
		must(t, os.WriteFile(filepath.Join(d.Dir(), "spool", id+".json"), []byte(text), 0o600))
		out, status := operator(t, d, "replay", "--all")
		wantReplayed(t, out, status, "1 mail: 1 failed")
		if !strings.Contains(out, "give it a destination") {
			t.Errorf("the remedy is not in:\n%s", out)
		}
		out, status = operator(t, d, "replay", "--all", "--to", ":"+good.Name)
		wantReplayed(t, out, status, "1 mail: 1 delivered")
		if got := rabbit.Drain(t, good, 1, patience)[0]; got.MessageId != id || string(got.Body) != text || got.Exchange != "" {
			t.Errorf("%q arrived as %s", got.Body, got.MessageId)
		}
	})
	if files := spooled(t, d); len(files) > 0 {
		t.Errorf("left in the spool: %s", files)
	}
}

func TestA_replay_that_is_interrupted_leaves_each_mail_either_delivered_or_in_the_spool(t *testing.T) {
	t.Parallel()
	const mails = 60
	node := rabbit.Shared(t)
	q := rabbit.Queue(t, node.URL())
	url, proxy := proxied(t, node)
	must(t, proxy.Refuse(true))
	d := startAway(t, url, config(listener("in", q.Name)))
	want := map[string]bool{}
	for range mails {
		want[deliver(t, d.Addr(t, "in"), "ann@client.example", "bob@example.com")] = true
	}
	if code := d.Stop(t); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	must(t, proxy.Refuse(false))
	proxy.Slow(4 << 10) // octets a second: a mail is about one KiB

	cmd := exec.CommandContext(t.Context(), daemon.Binary(t), "spool", "replay", "--all", "-c", d.ConfigPath())
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	eventually(t, "some mail arrives", func() bool { return rabbit.Depth(t, q) > 0 })
	must(t, cmd.Process.Signal(syscall.SIGINT))
	err := cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); !exited || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v:\n%s", err, &out)
	}
	delivered := rabbit.Depth(t, q)
	left := spooled(t, d)
	if len(left)+delivered != mails || delivered == mails {
		t.Errorf("%d delivered and %d in the spool of %d, after:\n%s", delivered, len(left), mails, &out)
	}
	if says := fmt.Sprintf("stopped, as asked (%d mails stay in the spool)", len(left)); !strings.Contains(out.String(), says) {
		t.Errorf("%q is not in:\n%s", says, &out)
	}
	for _, m := range rabbit.Drain(t, q, delivered, patience) {
		if !want[m.MessageId] {
			t.Errorf("message %s is nobody's", m.MessageId)
		}
		delete(want, m.MessageId)
	}
	for _, path := range left {
		delete(want, strings.TrimSuffix(filepath.Base(path), ".json"))
	}
	if len(want) > 0 {
		t.Errorf("neither delivered nor in the spool: %v", want)
	}
}
