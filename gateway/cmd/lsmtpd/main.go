// Command lsmtpd takes mail in over SMTP and puts it into RabbitMQ; its subcommands run, check, feed and watch that gateway.
// It owns signals, flags, logging and exit statuses, and does not know how mail is spoken, routed or published.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"lsmtpd/routes/config"
)

// Exit statuses, the same for every command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2  // or no daemon there
	exitConfig = 78 // the configuration is invalid: EX_CONFIG of sysexits.h
)

// defaultConfig is what -c means where it is not given.
const defaultConfig = "lsmtpd.yaml"

// program is what a command has of the outside world.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	// Signals since the first statement of main, for the commands that handle them. Two channels, so that a storm of
	// hang-ups cannot push out the order to stop.
	stops   <-chan os.Signal // SIGINT and SIGTERM
	hangups <-chan os.Signal // SIGHUP
}

// command is one subcommand.
type command struct {
	name    string
	summary string // one line, for the list of commands
	signals bool   // it reads program.stops and hangups; any other command dies of a signal
	run     func(p *program, args []string) int
}

var commands = []command{
	{"run", "take mail in over SMTP and put it into RabbitMQ", true, runRun},
	{"check", "read the configuration and tell every fault in it", false, runCheck},
	{"reload", "have the running daemon read its configuration again", false, runReload},
	{"status", "show what the running daemon does", false, runStatus},
	{"send", "hand one mail to an SMTP server: a test client", false, runSend},
	{"tail", "watch the mail that goes to the broker", true, runTail},
	{"spool", "list, show, send again or remove the mail that waits in the spool", true, runSpool},
	{"passwd", "make the hash of a password", false, runPasswd},
	{"version", "print the version", false, runVersion},
}

func main() {
	stops, hangups := catchSignals()
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, stops: stops, hangups: hangups}
	os.Exit(p.dispatch(os.Args[1:]))
}

// catchSignals is the first statement of main: before it SIGHUP is fatal, so a reload that was asked for too early would
// end the program.
func catchSignals() (stops, hangups chan os.Signal) {
	stops, hangups = make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	signal.Notify(stops, syscall.SIGINT, syscall.SIGTERM)
	return stops, hangups
}

// dispatch runs the command that args name and returns the exit status.
func (p *program) dispatch(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(p.stderr, overview())
		return exitUsage
	}
	name, args := args[0], args[1:]
	switch name {
	case "-h", "-help", "--help":
		name = "help"
	case "-v", "-version", "--version":
		name = "version"
	}
	if name == "help" {
		if len(args) == 0 {
			fmt.Fprint(p.stdout, overview())
			return exitDone
		}
		name, args = args[0], append(args[1:], "--help") // "help spool ls" is "spool ls --help"
	}
	for i := range commands {
		if c := &commands[i]; c.name == name {
			if !c.signals {
				releaseSignals(p.stops, p.hangups)
			}
			return c.run(p, args)
		}
	}
	return p.unknown(name)
}

func (p *program) unknown(name string) int {
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.name
	}
	fmt.Fprintf(p.stderr, "lsmtpd: there is no command %q%s\n", name, config.DidYouMean(name, names))
	fmt.Fprint(p.stderr, "See \"lsmtpd --help\".\n")
	return exitUsage
}

// releaseSignals gives signals their ordinary effect back. One that came in the meantime is sent again: it was meant.
func releaseSignals(caught ...<-chan os.Signal) {
	signal.Reset()
	for _, c := range caught {
		select {
		case s := <-c:
			// Sending to ourselves cannot fail; if it did, the user would press Ctrl-C again.
			_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
		default:
		}
	}
}

// overview is the text of "lsmtpd --help".
func overview() string {
	var b strings.Builder
	b.WriteString("lsmtpd takes mail in over SMTP and puts it into RabbitMQ.\n\nusage: lsmtpd COMMAND [FLAGS]\n\ncommands:\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-9s %s\n", c.name, c.summary)
	}
	b.WriteString(`
"lsmtpd COMMAND --help" explains one of them.

exit status: 0 done, 1 it failed, 2 wrong usage or no daemon there,
78 the configuration is invalid

example:
  lsmtpd run -c /etc/lsmtpd/lsmtpd.yaml
`)
	return b.String()
}
