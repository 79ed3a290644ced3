package rabbit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// patience is how long anything may take on a busy machine before a test fails.
const patience = time.Minute

// TestMain plays the test process that gets killed, when it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv("RABBIT_TEST_PARENT") == "" {
		Main(m)
	}
	n, err := Start(context.Background(), Options{Dir: os.Getenv("RABBIT_TEST_PARENT")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(n.Addr(), n.server.Pid(), n.epmd.Pid())
	_ = n.Freeze() // what does not run can be killed too
	select {}
}

func TestA_node_dies_with_the_process_that_started_it(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "RABBIT_TEST_PARENT="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var addr string
	var pids [2]int
	if _, err := fmt.Sscan(line, &addr, &pids[0], &pids[1]); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the node's port is closed", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	for _, pid := range pids {
		eventually(t, "the process is gone", func() bool { return dead(pid) })
	}
}

func TestA_node_can_be_frozen_alarmed_stopped_and_killed_and_keeps_what_was_persistent(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	n := New(t, Options{Dir: t.TempDir() + "/a directory with 'quotes'"})
	q := Queue(t, n.URL())
	publish(t, q, "one")

	must(t, n.Freeze())
	if _, err := amqp.DialConfig(n.URL(), amqp.Config{Dial: amqp.DefaultDial(100 * time.Millisecond)}); err == nil {
		t.Error("a frozen node took a connection")
	}
	must(t, n.Thaw())

	must(t, n.Alarm(ctx, true))
	conn, err := amqp.Dial(n.URL())
	must(t, err)
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 2))
	ch, err := conn.Channel()
	must(t, err)
	two := send(t, ch, q, "two")
	expectBlocked(t, blocked, true)
	must(t, n.Alarm(ctx, false))
	expectBlocked(t, blocked, false)
	confirmed(t, two)
	must(t, conn.Close())

	must(t, n.Kill())
	if _, err := n.Ctl(ctx, "status"); err == nil {
		t.Error("rabbitmqctl ran on a killed node")
	}
	must(t, n.Start(ctx))
	must(t, n.Stop())
	must(t, n.Start(ctx))
	for i, d := range Drain(t, q, 2, patience) {
		if want := []string{"one", "two"}[i]; string(d.Body) != want {
			t.Errorf("message %d is %q, want %q", i, d.Body, want)
		}
	}
	names, err := exec.Command(n.CtlPath(), "--quiet", "list_queues", "name").Output()
	if err != nil || !strings.Contains(string(names), q.Name) {
		t.Errorf("the script for people prints %q, %v", names, err)
	}
}

func TestA_port_that_something_else_holds_is_an_error_that_names_it(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	n, err := Start(t.Context(), Options{Port: port})
	if err == nil {
		n.Close()
	}
	if want := fmt.Sprintf("something else holds port %d", port); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

func TestA_node_that_does_not_come_up_shows_what_it_printed(t *testing.T) {
	t.Parallel()
	n, err := Start(t.Context(), Options{Config: []string{"no_such_setting = 1"}})
	if err == nil {
		n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("%v", err)
	}
}

func TestWhat_a_killed_process_left_is_swept_up_and_what_lives_is_not(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	living, lock, err := makeTemp()
	must(t, err)
	defer lock.Close()
	left, lock, err := makeTemp()
	must(t, err)
	must(t, lock.Close())
	sweep(parent, time.Now().Add(-tempGrace))
	if _, err := os.Stat(left); err != nil {
		t.Errorf("one that may not be locked yet: %v", err)
	}
	sweep(parent, time.Now().Add(time.Second))
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what was left is still there: %v", err)
	}
	if _, err := os.Stat(living); err != nil {
		t.Errorf("what is in use: %v", err)
	}
}

func TestTests_on_the_shared_node_do_not_meet(t *testing.T) {
	t.Parallel()
	url := Shared(t).URL()
	a, b := Queue(t, url), Queue(t, url)
	publish(t, a, "for a")
	publish(t, b, "for b")
	if got := Drain(t, a, 1, patience)[0]; string(got.Body) != "for a" || got.Exchange != a.Name {
		t.Errorf("%q from %s", got.Body, got.Exchange)
	}
	if got := []int{Depth(t, a), Depth(t, b)}; got[0] != 0 || got[1] != 1 {
		t.Errorf("depths %v", got)
	}
}

func TestA_broker_of_somebody_elses_is_left_alone(t *testing.T) {
	n := &Node{url: "amqp://guest:guest@127.0.0.1:1/"}
	_, ctl := n.Ctl(t.Context(), "stop")
	for name, err := range map[string]error{
		"Start": n.Start(t.Context()), "Stop": n.Stop(), "Kill": n.Kill(), "Freeze": n.Freeze(), "Alarm": n.Alarm(t.Context(), true), "Ctl": ctl,
	} {
		if !errors.Is(err, errForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.Close()
}

func TestWhat_is_not_installed_comes_with_the_line_that_installs_it(t *testing.T) {
	t.Setenv(ProgramVariable, "/no/such/rabbitmq-server")
	if err := Installed(); err == nil || !strings.Contains(err.Error(), ProgramVariable) {
		t.Errorf("%v", err)
	}
	if !strings.Contains(ErrNotInstalled.Error(), "apt-get install -y rabbitmq-server") {
		t.Errorf("%v", ErrNotInstalled)
	}
}

func publish(t *testing.T, q *Inbox, body string) {
	t.Helper()
	confirmed(t, send(t, q.channel(t), q, body))
}

func send(t *testing.T, ch *amqp.Channel, q *Inbox, body string) *amqp.DeferredConfirmation {
	t.Helper()
	must(t, ch.Confirm(false))
	c, err := ch.PublishWithDeferredConfirm(q.Name, "k", true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
	must(t, err)
	return c
}

func confirmed(t *testing.T, c *amqp.DeferredConfirmation) {
	t.Helper()
	if ok, err := c.WaitContext(t.Context()); !ok {
		t.Fatalf("not confirmed: %v", err)
	}
}

func expectBlocked(t *testing.T, blocked <-chan amqp.Blocking, want bool) {
	t.Helper()
	select {
	case b := <-blocked:
		if b.Active != want {
			t.Fatalf("blocked is %v, want %v", b.Active, want)
		}
	case <-time.After(patience):
		t.Fatalf("no word that the connection is blocked or not, want %v", want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// dead is true of a process that nobody has collected yet, too.
func dead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == syscall.ESRCH
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}
