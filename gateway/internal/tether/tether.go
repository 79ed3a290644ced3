// Package tether starts processes that cannot outlive the one that started them, however that one ends: a test binary that
// panics, times out or is killed leaves nothing behind. It does not know what it starts.
package tether

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// leash runs in front of the program. A pipe is open at both ends while this process lives, and the kernel closes its
// other end whatever this process dies of; the background shell then kills its whole process group. The program itself
// replaces the foreground shell, so its pid is the one that exec.Cmd knows, and it does not see the pipe.
// SIGTERM and its like, sent to the group, are for the program: the background shell ignores them.
const leash = `fd=$1; shift
eval "(trap '' HUP INT QUIT TERM; read -r _; kill -KILL 0) <&$fd >/dev/null 2>&1 &"
eval "exec \"\$@\" $fd<&-"`

// Process is a program that runs, and everything that it started in its process group.
type Process struct {
	cmd  *exec.Cmd
	line *os.File // this end of the leash
	done chan struct{}
}

// Start starts cmd as the leader of a session of its own: a terminal's Ctrl-C does not reach it. cmd must not be used
// afterwards but for reading its ProcessState, which is there once Done is closed.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("a pipe to %s: %w", cmd.Path, err)
	}
	defer theirs.Close()
	fd := 3 + len(cmd.ExtraFiles)
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	cmd.Args = append([]string{"sh", "-c", leash, "sh", fmt.Sprint(fd), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second // for output that a left-behind child holds open; reap ends the child only afterwards
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	p := &Process{cmd: cmd, line: ours, done: make(chan struct{})}
	go p.reap()
	return p, nil
}

// reap waits for the program and then ends what it left in its process group: helpers, and the background shell. The
// group is alive until then, because that shell is in it: its number cannot have become somebody else's.
func (p *Process) reap() {
	defer close(p.done)
	_ = p.cmd.Wait() // told by ProcessState
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.line.Close()
}

// Pid is the program's process id, and that of its process group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode waits for the program's end and returns its exit status, as a shell would: 128 and the signal where one killed it.
func (p *Process) ExitCode() int {
	<-p.done
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends s to the program alone. Its error is os.ErrProcessDone where it has ended.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// SignalAll sends s to the program and to all of its process group.
func (p *Process) SignalAll(s syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return syscall.Kill(-p.Pid(), s)
	}
}

// Kill kills the program, which need not be running to die, and what it left in its process group; it waits for the end.
func (p *Process) Kill() {
	_ = p.Signal(os.Kill)
	<-p.done
}
