package rabbit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// policy is what Debian's packages ask before they start or stop a service.
const policy = "/usr/sbin/policy-rc.d"

// refuseServices denies every start. Were it ever left behind, it removes itself as soon as its process is gone.
const refuseServices = `#!/bin/sh
# Put here while lsmtpd's makefile installs RabbitMQ, so that no service is started.
if [ -d /proc/%d ]; then exit 101; fi
rm -f %s
exit 0
`

// Install installs Debian's rabbitmq-server, starting no service, and prints to out what it does. It needs root and apt-get;
// without them its error is ErrNotInstalled, which carries the line to type.
func Install(ctx context.Context, out io.Writer) error {
	_, noApt := exec.LookPath("apt-get")
	_, notDebian := os.Stat("/etc/debian_version")
	if os.Geteuid() != 0 || noApt != nil || notDebian != nil {
		return ErrNotInstalled
	}
	allow, err := forbidServices()
	if err != nil {
		return fmt.Errorf("keep services from being started: %w", err)
	}
	defer allow()
	fmt.Fprintln(out, "installing Debian's rabbitmq-server (no service is started)")
	for _, args := range [][]string{
		{"update"},
		{"install", "--yes", "--no-install-recommends", "rabbitmq-server"},
	} {
		if err := aptGet(ctx, out, args); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		// The package has enabled its service: at the next boot it would take the port.
		if text, err := exec.CommandContext(ctx, "systemctl", "disable", "rabbitmq-server").CombinedOutput(); err != nil {
			fmt.Fprintf(out, "systemctl disable rabbitmq-server: %v\n%s", err, text)
		}
	}
	return Installed()
}

func aptGet(ctx context.Context, out io.Writer, args []string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C comes by ctx: dpkg is asked to stop, not torn down
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w", args[0], err)
	}
	return nil
}

// forbidServices puts a policy in place, and returns what takes it away. A policy that is there already is the
// administrator's, and stays as it is.
func forbidServices() (allow func(), err error) {
	f, err := os.OpenFile(policy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	allow = func() { _ = os.Remove(policy) }
	_, err = fmt.Fprintf(f, refuseServices, os.Getpid(), policy)
	if err = errors.Join(err, f.Close()); err != nil {
		allow()
		return nil, err
	}
	return allow, nil
}
