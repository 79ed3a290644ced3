package main

import (
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes"
	"lsmtpd/routes/config"
)

// printer talks to the person at the terminal.
type printer struct {
	out      io.Writer
	terminal bool
}

func (p *printer) say(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

// during says what is being done, with a dot a second on a terminal, until the function it returns is called.
func (p *printer) during(what string) (done func(error)) {
	begun := time.Now()
	fmt.Fprint(p.out, what)
	over, quiet := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(quiet)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				if p.terminal {
					fmt.Fprint(p.out, ".")
				}
			}
		}
	}()
	return func(err error) {
		close(over)
		<-quiet
		if err != nil {
			fmt.Fprintln(p.out, ": no")
			return
		}
		fmt.Fprintf(p.out, ": ready after %.0f s\n", time.Since(begun).Seconds())
	}
}

// spooling says what becomes of mail without a broker.
func (p *printer) spooling(t *routes.Table) string {
	return fmt.Sprintf("lsmtpd runs without: it spools mail in %s until a broker answers.", t.Config.Spool.Dir)
}

// guide says what to type next. node is nil where it is not ours.
func (p *printer) guide(t *routes.Table, node *rabbit.Node) {
	for i := range t.Config.Listeners {
		p.listener(t.Config, &t.Config.Listeners[i])
	}
	if node != nil {
		p.say("Consumers connect to %s; list the queues with\n    %s list_queues name messages", node.URL(), word(relative(node.CtlPath())))
	}
	p.say("Ctrl-C stops everything; mail stays where it is.\n")
}

// listener shows how mail is sent to l and seen on its other side.
func (p *printer) listener(c *config.Config, l *config.Listener) {
	server, tcp := strings.CutPrefix(l.Address, ":")
	if tcp {
		server = "127.0.0.1:" + server
	}
	if strings.HasPrefix(server, "unix:") || strings.HasPrefix(server, "systemd:") || l.Protocol != "smtp" {
		return
	}
	p.say("Listener %s. In other terminals:", l.Name)
	if l.Exchange != nil && *l.Exchange != "" && !strings.Contains(*l.Exchange, "{") {
		queues := boundTo(&c.AMQP.Topology, *l.Exchange)
		if len(queues) > 0 {
			queues = []string{", which feeds queue " + strings.Join(queues, ", ")}
		}
		p.say("    bin/lsmtpd tail --bind %s    # prints what comes to the exchange%s", word(*l.Exchange), strings.Join(queues, ""))
	}
	p.say("    bin/lsmtpd send --server %s --from a@example.com --to b@example.com", server)
}

// boundTo names the configuration's queues that are bound to exchange.
func boundTo(t *config.Topology, exchange string) []string {
	var queues []string
	for _, b := range t.Bindings {
		if b.Exchange == exchange && !slices.Contains(queues, b.Queue) {
			queues = append(queues, b.Queue)
		}
	}
	return queues
}

// runDir is where a private node keeps its data: beside the configuration, in what git ignores.
func runDir(configPath string) string {
	return filepath.Join(filepath.Dir(configPath), ".run", "rabbitmq")
}

// relative shortens path to how one would type it here.
func relative(path string) string {
	here, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	if short, err := filepath.Rel(here, path); err == nil && len(short) < len(path) {
		return short
	}
	return path
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,-]+$`)

// word is s as one types it in a shell.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
