package main

import (
	"fmt"
	"io"
	"slices"

	"lsmtpd/gateway/spool"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

const checkHelp = `usage: lsmtpd check [-c FILE] [--broker]

Reads the configuration and every file it names, as "run" does, and tells each
fault with its file, line and column. It starts nothing and changes nothing; to
see whether the spool directory takes files, it makes one there and removes it.

With --broker it tries every URL of amqp.urls, and warns of those that lead to
no broker while another does. It asks the first that answers whether each
exchange is there and may be written to, which queues take the mail as far as
that can be known, and whether it takes messages of amqp.max_message_size.
Nothing is declared, and no message is routed; the broker's log has a line of
error for each question. A daemon at admin.socket asks again at once, too,
rather than when its next attempt is due.

flags:
{flags}

exit status: 0 the configuration is valid (there may be warnings), 1 it is, but
"run" would refuse the spool directory as it is now, or the broker would not
take all of the mail, 78 it is not valid

example:
  lsmtpd check -c /etc/lsmtpd/lsmtpd.yaml
`

func runCheck(p *program, args []string) int {
	f := p.flags("check", checkHelp)
	path := f.configFile()
	broker := f.Bool("broker", false, "ask the broker, too")
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	table, err := routes.Load(*path)
	if err != nil {
		printFaults(p.stderr, err)
		return exitConfig
	}
	for _, warning := range checkWarnings(table) {
		fmt.Fprintln(p.stderr, "warning: "+printableLine(warning.String()))
	}
	if err := spool.Check(table.Config.Spool.Dir); err != nil {
		return f.failed(fmt.Errorf("spool.dir: %w", err))
	}
	ways := 0
	for _, l := range table.Listeners {
		ways += len(l.Routes)
	}
	fmt.Fprintf(p.stdout, "%s: ok: %s, %s\n", printableLine(*path), count(len(table.Listeners), "listener"), count(ways, "route"))
	if !*broker {
		return exitDone
	}
	well, err := p.checkBroker(table)
	if err != nil {
		return f.failed(err)
	}
	if !well {
		return exitFailed
	}
	return exitDone
}

// printFaults writes the error of routes.Load, a line a fault.
func printFaults(w io.Writer, err error) {
	fmt.Fprintln(w, printable(err.Error()))
}

// checkWarnings is what the configuration warns of, and what it cannot know: whether the spool outlives a reboot and has room, and
// whether mail of earlier ones is reached.
func checkWarnings(table *routes.Table) config.Faults {
	warnings := slices.Clone(table.Warnings)
	warn := func(text string) {
		warnings = append(warnings, config.Fault{Place: config.Place{File: table.Config.Path}, Key: "spool.dir", Message: text})
	}
	if text := spool.Warning(table.Config.Spool.Dir); text != "" {
		warn(text)
	}
	if text := spool.Shortage(table.Config.Spool.Dir, table.Config.Spool.MinFree); text != "" {
		warn(text)
	}
	for i, err := range spool.CheckPredecessors(table.Config.Spool.Dir) {
		if i == maxReasons {
			warn("and more mail that was spooled before would wait unseen")
			break
		}
		warn("mail that was spooled before would wait unseen: " + err.Error())
	}
	return warnings
}

// count is "1 route" or "2 routes".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
