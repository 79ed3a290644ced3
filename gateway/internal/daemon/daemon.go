// Package daemon builds the real lsmtpd and runs it for a test: in a directory and on ports of its own, with its log at hand.
// It does not know what the daemon does, only how one talks to a process.
package daemon

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway/internal/tether"
)

// patience is how long anything may take on a busy machine before the test fails.
const patience = time.Minute

// Options say what to run.
type Options struct {
	// Config is a text/template of lsmtpd.yaml. {{addr "inbound"}} is a free 127.0.0.1:port for a listener, {{port "admin"}}
	// a free port for anything else, the same for the same name; {{.Dir}} is the daemon's directory, {{.AMQP}} the field below.
	Config string
	AMQP   string   // URL of the broker
	Args   []string // of lsmtpd; nil is run -c with the configuration
	Env    []string // besides this process's
}

// Daemon is a process of lsmtpd's, which cannot outlive the test.
type Daemon struct {
	*log
	options Options
	site    *site
	process *tether.Process
}

// Start runs lsmtpd and waits until each listener named by {{addr}} is listening.
func Start(t testing.TB, o Options) *Daemon {
	t.Helper()
	d := Run(t, o)
	d.ready(t)
	return d
}

// Run runs lsmtpd and does not wait. When t ends, it is killed if it still runs; a data race fails t, and a t that failed
// shows the end of the log.
func Run(t testing.TB, o Options) *Daemon {
	t.Helper()
	d := &Daemon{options: o, site: newSite(t, o.AMQP)}
	d.site.write(t, o.Config)
	if d.options.Args == nil {
		d.options.Args = []string{"run", "-c", d.site.path()}
	}
	d.run(t)
	t.Cleanup(func() {
		d.process.Kill()
		d.report(t)
	})
	return d
}

func (d *Daemon) run(t testing.TB) {
	t.Helper()
	cmd := exec.Command(Binary(t), d.options.Args...)
	cmd.Dir = d.site.dir
	cmd.Env = append(os.Environ(), d.options.Env...)
	d.log = newLog()
	cmd.Stdout, cmd.Stderr = output{d.log}, output{d.log}
	var err error
	if d.process, err = tether.Start(cmd); err != nil {
		t.Fatal(err)
	}
	d.ended = d.process.Done()
}

// ready waits for the log's word, not for a connection: one would be a session, and be counted.
func (d *Daemon) ready(t testing.TB) {
	t.Helper()
	for name, address := range d.site.listeners {
		d.Await(t, "listener "+name+" listens", 0, func(l Line) bool {
			return l.Field("msg") == "listening" && l.Field("address") == address
		})
	}
}

// Restart runs lsmtpd again, on the same directory and ports and with an empty log, after it ended; it waits as Start does.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	select {
	case <-d.process.Done():
	default:
		t.Fatal("lsmtpd still runs")
	}
	d.report(t)
	d.run(t)
	d.ready(t)
}

// Configure replaces the configuration file by another template, rendered with the same names for the same ports.
func (d *Daemon) Configure(t testing.TB, config string) {
	t.Helper()
	d.site.write(t, config)
}

// Dir is the daemon's directory, which is its working directory too.
func (d *Daemon) Dir() string { return d.site.dir }

// ConfigPath is the file that Configure writes.
func (d *Daemon) ConfigPath() string { return d.site.path() }

// Addr is the 127.0.0.1:port that {{addr}} or {{port}} gave to name.
func (d *Daemon) Addr(t testing.TB, name string) string {
	t.Helper()
	port, ok := d.site.ports[name]
	if !ok {
		t.Fatalf("the configuration names no address %q", name)
	}
	return onLoopback(port)
}

// Pid is the process's.
func (d *Daemon) Pid() int { return d.process.Pid() }

// Signal sends s to the daemon.
func (d *Daemon) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := d.process.Signal(s); err != nil {
		t.Fatalf("%v: %v", s, err)
	}
}

// Kill kills the daemon and waits for its end.
func (d *Daemon) Kill() { d.process.Kill() }

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.process.Done() }

// ExitCode waits for the daemon's end, a minute at most, and returns its exit status; 128 and the signal where one killed it.
func (d *Daemon) ExitCode(t testing.TB) int {
	t.Helper()
	select {
	case <-d.process.Done():
		return d.process.ExitCode()
	case <-time.After(patience):
		d.Signal(t, syscall.SIGQUIT) // the goroutines' stacks go to the log
		select {
		case <-d.process.Done():
		case <-time.After(patience):
		}
		t.Fatalf("lsmtpd did not end within %v", patience)
		return 0
	}
}

// Stop sends SIGTERM and returns the exit status.
func (d *Daemon) Stop(t testing.TB) int {
	t.Helper()
	d.Signal(t, syscall.SIGTERM)
	return d.ExitCode(t)
}

// report fails t for what no test expects of a daemon, and shows a failed t what the daemon said last.
func (d *Daemon) report(t testing.TB) {
	t.Helper()
	text := d.Text()
	if strings.Contains(text, "WARNING: DATA RACE") {
		t.Errorf("lsmtpd has a data race:\n%s", text)
		return
	}
	if strings.Contains(text, "\ngoroutine ") {
		t.Errorf("lsmtpd panicked, or hung and was asked for its stacks:\n%s", text)
		return
	}
	if t.Failed() {
		t.Logf("the end of lsmtpd's log:\n%s", text[max(0, len(text)-maxShown):])
	}
}
