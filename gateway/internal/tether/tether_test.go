package tether

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain plays the parent that gets killed, when it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv("TETHER_TEST_PARENT") == "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("sh", "-c", "sleep 600 & echo $$ $!; kill -STOP $$; wait")
	cmd.Stdout = os.Stdout
	if _, err := Start(cmd); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	select {}
}

func TestA_killed_parent_takes_the_program_and_its_children_along_even_when_they_are_stopped(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "TETHER_TEST_PARENT=1")
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
	var pids []int
	for _, word := range strings.Fields(line) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("the parent says %q", line)
		}
		pids = append(pids, pid)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	for _, pid := range pids {
		if !gone(pid) {
			t.Errorf("process %d outlived its parent", pid)
		}
	}
}

func TestThe_end_of_the_program_ends_what_it_left_behind(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 600 & echo $!; exit 7")
	var out bytes.Buffer // its other end is held open by the child
	cmd.Stdout = &out
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.ExitCode(); got != 7 {
		t.Errorf("exit code %d, want 7", got)
	}
	var child int
	if _, err := fmt.Fscan(&out, &child); err != nil {
		t.Fatal(err)
	}
	if !gone(child) {
		t.Errorf("process %d outlived the program", child)
	}
}

func TestA_killed_program_tells_so_by_its_exit_code(t *testing.T) {
	p, err := Start(exec.Command("sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if got, want := p.ExitCode(), 128+int(syscall.SIGKILL); got != want {
		t.Errorf("exit code %d, want %d", got, want)
	}
	p.Kill() // a second time is no harm
}

func TestA_signal_to_all_reaches_the_children_and_leaves_the_leash(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", `trap : TERM; sh -c 'trap "echo child; exit" TERM; echo ready; while :; do sleep 0.01; done' & wait; wait; echo $! alive`)
	cmd.Stdout = w
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	said := bufio.NewScanner(r)
	if !said.Scan() || said.Text() != "ready" {
		t.Fatalf("%q, %v", said.Text(), said.Err())
	}
	if err := p.SignalAll(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !said.Scan() || said.Text() != "child" || !said.Scan() {
		t.Fatalf("%q, %v", said.Text(), said.Err())
	}
	if code := p.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := p.SignalAll(syscall.SIGTERM); err != os.ErrProcessDone {
		t.Errorf("a signal to what has ended: %v", err)
	}
}

func TestA_program_gets_its_arguments_and_files_untouched_and_no_leash(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", `printf '%s|' "$@" >&3; test -e /proc/$$/fd/4 && echo leash >&3`, "sh", `a "b" $c`, "", "d\\e")
	cmd.ExtraFiles = []*os.File{w}
	if _, err := Start(cmd); err != nil {
		t.Fatal(err)
	}
	w.Close()
	got, err := bufio.NewReader(r).ReadString(0)
	if err != io.EOF {
		t.Fatal(err)
	}
	if want := `a "b" $c||d\e|`; got != want {
		t.Errorf("the program saw %q, want %q", got, want)
	}
}

func TestA_program_that_is_not_there_is_an_error(t *testing.T) {
	if _, err := Start(exec.Command("lsmtpd-no-such-program")); err == nil {
		t.Error("no error")
	}
}

// gone waits up to a minute until process pid no longer exists or is a corpse that nobody collects.
func gone(pid int) bool {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if syscall.Kill(pid, 0) == syscall.ESRCH || zombie(pid) {
			return true
		}
	}
	return false
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}
