package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"lsmtpd/gateway/internal/tether"
)

// exitNotFound is a shell's exit status for a command that is not there.
const exitNotFound = 127

// command runs args until they end and returns their exit status; env is added to this process's. They run in a session of
// their own, so that a Ctrl-C reaches them once, by the signals passed on here, and a second one is the second one. The
// terminal's end (SIGHUP) stops them too, though for lsmtpd that signal alone is a reload.
func command(args, env []string, signals <-chan os.Signal, out io.Writer) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	p, err := tether.Start(cmd)
	if err != nil {
		fmt.Fprintln(out, err)
		return exitNotFound
	}
	for {
		select {
		case <-p.Done():
			return p.ExitCode()
		case s := <-signals:
			if s == syscall.SIGHUP {
				s = syscall.SIGTERM
			}
			_ = p.SignalAll(s.(syscall.Signal)) // its error is that they have ended
		}
	}
}
