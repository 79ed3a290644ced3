package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes/reload"
)

// reloadable is a daemon whose configuration the test changes.
type reloadable struct {
	*daemon.Daemon
	t      testing.TB
	client *admin.Client
}

var socketKey = regexp.MustCompile(`socket: "([^"]+)"`)

// startReloadable runs lsmtpd with config, a template like daemon's, until it listens and is connected; see start.
func startReloadable(t testing.TB, url, config string) *reloadable {
	t.Helper()
	d := startReloadableAway(t, url, config)
	awaitBroker(t, d.Daemon)
	return d
}

// startReloadableAway is startReloadable where the broker does not answer yet.
func startReloadableAway(t testing.TB, url, config string) *reloadable {
	t.Helper()
	o := options(t, url, config)
	socket := socketKey.FindStringSubmatch(o.Config)[1]
	return &reloadable{daemon.Start(t, o), t, &admin.Client{Socket: socket}}
}

// put replaces the file at once.
func (d *reloadable) put(config string) {
	d.t.Helper()
	d.Configure(d.t, strings.ReplaceAll(config, "{{.Dir}}/admin.sock", d.client.Socket))
}

// reload has the daemon read its file.
func (d *reloadable) reload() reload.Report {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := d.client.Reload(ctx)
	must(d.t, err)
	return r
}

// apply replaces the file and reloads it, which must end well.
func (d *reloadable) apply(config string) reload.Report {
	d.t.Helper()
	d.put(config)
	r := d.reload()
	if r.Result != reload.Applied {
		d.t.Fatalf("%s: %s", r.Result, r)
	}
	return r
}

// command runs lsmtpd with args as the operator would, and returns what it printed and its exit status.
func (d *reloadable) command(t testing.TB, args ...string) (output string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, daemon.Binary(t), append(args, "--socket", d.client.Socket)...)
	out, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (d *reloadable) status() admin.Status {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := d.client.Status(ctx)
	must(d.t, err)
	return s
}

// content is what the file says now.
func (d *reloadable) content() string {
	d.t.Helper()
	b, err := os.ReadFile(d.ConfigPath())
	must(d.t, err)
	return string(b)
}

// at is a listener called name on the address called where; see listener.
func at(name, where, exchange string, more ...string) string {
	return strings.Replace(listener(name, exchange, more...), fmt.Sprintf("{{addr %q}}", name), fmt.Sprintf("{{addr %q}}", where), 1)
}

// visits is many clients that come, deliver one mail and go, over and over.
type visits struct {
	ledger  *ledger
	stopped chan struct{}
	clients sync.WaitGroup
	once    sync.Once
}

// visit begins visits of n clients, which take the targets in turn. Whatever is no 250 and no 221 fails the test.
func (l *ledger) visit(t testing.TB, n int, targets []target) *visits {
	v := &visits{ledger: l, stopped: make(chan struct{})}
	l.loads++
	prefix := fmt.Sprintf("v%d", l.loads)
	for i := range n {
		v.clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 2))
			for k := 0; ; k++ {
				select {
				case <-v.stopped:
					return
				default:
				}
				if err := l.once(random, targets[(i+k)%len(targets)], fmt.Sprintf("%s/%d/%d", prefix, i, k)); err != nil {
					t.Errorf("client %d, visit %d: %v", i, k, err)
					return
				}
			}
		})
	}
	t.Cleanup(v.stop)
	return v
}

// stop has each client end after its visit, and waits for that.
func (v *visits) stop() {
	v.once.Do(func() { close(v.stopped) })
	v.clients.Wait()
}

// once is one visit.
func (l *ledger) once(random *rand.Rand, to target, key string) error {
	c, err := smtptest.Connect(to.addr)
	if err != nil {
		return fmt.Errorf("refused: %w", err)
	}
	defer c.Close()
	if r, err := c.Hello(); err != nil || r.Code() != 250 {
		return fmt.Errorf("hello: %q, %w", r, err)
	}
	content := randomMail(random, key)
	e := l.send(key, to.queue.Name, content)
	r, err := c.Deliver("sender@client.example", []string{"someone@example.com"}, content)
	if err != nil || r.Code() != 250 {
		return fmt.Errorf("mail: %q, %w", r, err)
	}
	l.accept(e, r)
	if r, err := c.Exchange("QUIT"); err != nil || r.Code() != 221 {
		return fmt.Errorf("quit: %q, %w", r, err)
	}
	return c.End()
}

// reckonReloaded is reckon, and no mail may have come twice.
func (l *ledger) reckonReloaded(t testing.TB, d *reloadable, queues ...*rabbit.Inbox) {
	t.Helper()
	if n := l.reckon(t, d.Daemon, queues...); n > 0 {
		t.Errorf("%d mails came twice", n)
	}
}

// within fails t where do takes longer than most.
func within(t testing.TB, most time.Duration, what string, do func()) {
	t.Helper()
	begun := time.Now()
	do()
	if took := time.Since(begun); took > most {
		t.Errorf("%s took %v, %v at most", what, took, most)
	}
}

// overwrite saves a file in place, as many editors do.
func overwrite(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600))
}
