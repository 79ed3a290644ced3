package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"syscall"

	"lsmtpd/gateway/admin"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
	"lsmtpd/routes/reload"
)

const reloadHelp = `usage: lsmtpd reload [--json] [--socket PATH | -c FILE]

Has the running daemon read its configuration again, and prints what changed.
The daemon reads the file, not this command: -c only tells where its admin
socket is. All of the new configuration is put in force, or none of it.

flags:
{flags}

exit status: 0 applied or unchanged, 1 rejected (the old one stays in force),
2 wrong usage, no daemon there, or one that is stopping

example:
  lsmtpd reload -c /etc/lsmtpd/lsmtpd.yaml
`

func runReload(p *program, args []string) int {
	f := p.flags("reload", reloadHelp)
	client, asJSON := f.control()
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	daemon := client()
	_, err := ask(ctx, daemon)
	if err != nil {
		return f.unanswered(err)
	}
	report, err := daemon.Reload(ctx)
	if err != nil {
		return f.unanswered(err)
	}
	if *asJSON {
		_ = json.NewEncoder(p.stdout).Encode(report)
	} else {
		fmt.Fprint(p.stdout, reportText(report))
	}
	if report.Result == reload.Rejected {
		return exitFailed
	}
	return exitDone
}

// control defines the flags of a command that talks to the daemon. client may be called once the flags are parsed.
func (f *flags) control() (client func() *admin.Client, asJSON *bool) {
	client = f.daemon(f.configFile())
	return client, f.Bool("json", false, "print JSON, on one line")
}

// daemon defines the flag that names the daemon's socket, which else is the one in the configuration at path.
func (f *flags) daemon(path *string) (client func() *admin.Client) {
	socket := f.String("socket", "", "the daemon's admin socket, instead of the `PATH` in the configuration")
	return func() *admin.Client {
		if *socket != "" {
			return &admin.Client{Socket: *socket}
		}
		_, c, err := routes.Read(*path, nil) // a broken file that the daemon may leave out does not hide its socket
		if err == nil || namesSocket(c) {
			return &admin.Client{Socket: c.Admin.Socket} // what else is wrong with the file, the daemon tells
		}
		printFaults(f.p.stderr, err)
		fallback := config.DefaultSocket()
		fmt.Fprintf(f.p.stderr, "lsmtpd %s: the configuration is invalid, trying the default socket %s\n", f.Name(), fallback)
		return &admin.Client{Socket: fallback}
	}
}

// namesSocket tells whether c, which may have faults, says where the daemon's socket is.
func namesSocket(c *config.Config) bool { return c.Admin.Socket != "" && !c.Admin.SocketIsDefault }

// unanswered tells why the daemon gave no answer, and returns the exit status.
func (f *flags) unanswered(err error) int {
	status := f.failed(err)
	switch {
	case errors.Is(err, admin.ErrStopping), errors.Is(err, errSilent):
		return exitUsage
	case errors.Is(err, admin.ErrNobody):
		fmt.Fprintln(f.p.stderr, "Is it running, and with this configuration? It listens where admin.socket pointed when it last read the file;\n--socket names another socket.")
		return exitUsage
	}
	return status
}
