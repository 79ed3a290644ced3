// Command devnode runs a command with a RabbitMQ at hand: the one that lsmtpd.yaml names for `make run`, a private one for `make
// test`. It knows nothing of the command but its exit status.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 128 + int(syscall.SIGINT)
)

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run is the program: its result is the command's exit status.
func run(args []string, out io.Writer) int {
	signals := make(chan os.Signal, 8) // before anything is started that would have to be stopped
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()

	flags := flag.NewFlagSet("devnode", flag.ContinueOnError)
	flags.SetOutput(out)
	path := flags.String("c", "", "take the broker's URL from this lsmtpd.yaml; without it a private node is started for tests")
	flags.Usage = func() {
		fmt.Fprintln(out, "usage: devnode [-c lsmtpd.yaml] -- command [argument...]")
		flags.PrintDefaults()
	}
	if flags.Parse(args) != nil {
		return exitUsage
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return exitUsage
	}
	p := &printer{out: out, terminal: isTerminal(out)}
	var node *rabbit.Node
	var env []string
	if *path != "" {
		node = forRun(ctx, p, *path)
	} else if os.Getenv(rabbit.URLVariable) == "" {
		var err error
		if node, err = forTests(ctx, p); err != nil && ctx.Err() == nil {
			fmt.Fprintln(out, err)
			return exitFailed
		}
	}
	if node != nil {
		defer stop(node, *path != "", out)
		over := make(chan struct{})
		defer close(over)
		go mourn(node.Done(), over, p)
		if *path == "" {
			env = []string{rabbit.URLVariable + "=" + node.URL()}
		}
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return command(flags.Args(), env, signals, out)
}

// mourn tells of a node that ends before its time.
func mourn(died, over <-chan struct{}, p *printer) {
	select {
	case <-died:
		p.say("RabbitMQ: the private node has ended by itself. What runs goes on without it; start again to have another.")
	case <-over:
	}
}

// forTests starts an empty node, for which RabbitMQ is installed if need be.
func forTests(ctx context.Context, p *printer) (*rabbit.Node, error) {
	if err := install(ctx, p); err != nil {
		return nil, err
	}
	return start(ctx, p, "RabbitMQ: starting a private node for the tests", rabbit.Options{})
}

// forRun finds or starts the broker that the configuration names. Where it cannot, it says so and returns nil, as it does
// where none is needed: lsmtpd runs without a broker, and is the one to explain a configuration with faults.
func forRun(ctx context.Context, p *printer, path string) *rabbit.Node {
	table, err := routes.Load(path)
	if err != nil {
		return nil
	}
	b := findBroker(table.Config)
	var node *rabbit.Node
	switch {
	case b.answers:
		p.say("RabbitMQ: using the one that answers at %s", b.addr)
	case b.unfit != "":
		p.say("RabbitMQ: none. %s. %s", b.unfit, p.spooling(table))
	default:
		if node, err = startAt(ctx, p, b, path); err != nil && ctx.Err() == nil {
			p.say("RabbitMQ: none. %v\n%s", err, p.spooling(table))
		}
	}
	if ctx.Err() == nil {
		p.guide(table, node)
	}
	return node
}

// startAt starts a node where the configuration expects one. Its data stays from one run to the next.
func startAt(ctx context.Context, p *printer, b broker, path string) (*rabbit.Node, error) {
	if err := install(ctx, p); err != nil {
		return nil, err
	}
	dir := runDir(path)
	return start(ctx, p, fmt.Sprintf("RabbitMQ: starting a private node at %s, with its data in %s", b.addr, dir),
		rabbit.Options{Port: b.port, Dir: dir})
}

func install(ctx context.Context, p *printer) error {
	if err := rabbit.Installed(); err != rabbit.ErrNotInstalled {
		return err
	}
	return rabbit.Install(ctx, p.out)
}

func start(ctx context.Context, p *printer, what string, o rabbit.Options) (*rabbit.Node, error) {
	done := p.during(what)
	node, err := rabbit.Start(ctx, o)
	done(err)
	return node, err
}

// stop ends the node: in good order where its data is kept.
func stop(node *rabbit.Node, keep bool, out io.Writer) {
	if keep {
		if err := node.Stop(); err != nil {
			fmt.Fprintln(out, "RabbitMQ:", err)
		}
	}
	node.Close()
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
