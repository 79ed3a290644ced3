package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"lsmtpd/gateway"
)

const spoolReplayHelp = `usage: lsmtpd spool replay [FLAGS] ID...
       lsmtpd spool replay [FLAGS] --all | flags that select

Sends spooled mail to the broker now, oldest first, whatever it waits for: one
mail, some, or all. Mail leaves the spool only when the broker has confirmed it
and routed it to a queue; what it does not take stays, with the reason. An ID
may be cut to its first digits while they are one mail's; flags that select must
all hold.

The running daemon sends it. Where none runs, this command does, to the broker
of the configuration. Ctrl-C lets what is under way come to its end, and tells
what became of all; a second one ends this command at once: without a daemon it
may have mail sent twice, with the same message-id.

With --to the mail goes elsewhere: EXCHANGE:KEY, or :QUEUE for the default
exchange. The first colon is the one between them. From then on that is its
destination, whether it can be sent now or not: that is changed first, on disk,
and then it is tried. A destination that the broker calls missing is refused
before anything is changed; "spool show" tells where a mail went before. More
than one mail is changed only after it was shown and told yes. Files that LSMTPD
left behind do not say where they go, and need it.

flags:
{flags}

exit status: 0 all of it is delivered, or there was none, 1 some is left, the
answer was not yes, or what is selected may wait in a directory that cannot be
opened, 2 wrong usage, nobody to ask, or no daemon on --socket

examples:
  lsmtpd spool replay 3f2a91c0
  lsmtpd spool replay --failed --exchange tenant-a
  lsmtpd spool replay --listener tenant-a --to dead-letters:tenant-a --yes
`

func runSpoolReplay(p *program, args []string) int {
	f := p.flags("spool replay", spoolReplayHelp)
	open := f.spool()
	selected := f.selection().withAll()
	var elsewhere once
	f.Var(&elsewhere, "to", "send it to this `EXCHANGE:KEY` instead")
	yes := f.Bool("yes", false, "do not ask before --to changes the destination of more than one mail")
	operands, err := f.parse(args, len(args))
	if err != nil {
		return f.refuse(err)
	}
	filter, err := selected.filter(operands)
	if err != nil {
		return f.refuse(err)
	}
	var to *gateway.Destination
	if elsewhere.given {
		if to, err = parseDestination(elsewhere.text); err != nil {
			return f.refuse(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go p.stopOnSignal(ctx, stop)
	err = p.replay(ctx, open, &order{filter, operands, to, *yes})
	switch {
	case errors.Is(err, errNobodyToAsk):
		return f.refuse(err)
	case errors.Is(err, errLeft):
		return exitFailed
	case errors.Is(err, context.Canceled):
		return f.failed(errors.New("stopped, as asked"))
	case err != nil:
		return f.unanswered(err)
	}
	return exitDone
}

// parseDestination reads EXCHANGE:KEY.
func parseDestination(s string) (*gateway.Destination, error) {
	exchange, key, ok := strings.Cut(s, ":")
	if !ok {
		return nil, fmt.Errorf("--to %q names no destination, which is EXCHANGE:KEY, or :QUEUE (recipients are selected with --recipient)", s)
	}
	if exchange == "" && key == "" {
		return nil, fmt.Errorf("--to %q names neither an exchange nor a queue: it is EXCHANGE:KEY, or :QUEUE", s)
	}
	return &gateway.Destination{Exchange: exchange, RoutingKey: key}, nil
}

// order is what a replay is asked for.
type order struct {
	filter *gateway.Filter
	names  []string             // each means one mail
	to     *gateway.Destination // nil: where it belongs
	yes    bool                 // nobody is asked
}

var (
	// errLeft tells that some mail stays, which is told already.
	errLeft = errors.New("some mail stays")
	// errNobodyToAsk is wrong usage.
	errNobodyToAsk = errors.New("there is no terminal to ask on: --yes changes the destination of more than one mail without asking")
)

// replay sends what o means, and tells what became of it.
func (p *program) replay(ctx context.Context, open func(context.Context) (*access, error), o *order) error {
	a, err := open(ctx)
	if err != nil {
		return err
	}
	defer a.close()
	if a.broken {
		return errors.New("the configuration is invalid and may name another broker than is meant: mend it first")
	}
	some, err := p.find(ctx, a, o.filter, o.names)
	if err != nil {
		return err
	}
	if len(some.ids) == 0 {
		fmt.Fprintln(p.stdout, "No mail in the spool is like that.")
		return a.all(o.names)
	}
	if o.to != nil && !o.yes && len(some.ids) > 1 {
		if err := a.asking(ctx, func() error { return p.agreedTo(ctx, some, o) }); err != nil {
			return err
		}
	}
	sum := summary{total: len(some.ids)}
	bar := newProgress(p.stderr, sum.bar)
	var away error
	if a.local != nil {
		away = a.local.Connect(ctx, a.config)
	}
	if err = away; away == nil || o.to != nil && errors.Is(away, gateway.ErrAway) { // a new destination needs no broker
		err = a.Replay(ctx, some.ids, o.to, func(outcome gateway.Outcome) error {
			sum.add(outcome)
			bar.step()
			return nil
		})
	}
	if away != nil && errors.Is(err, gateway.ErrAway) {
		err = away // says more
	}
	bar.end()
	if err == nil || sum.done() > 0 {
		fmt.Fprint(p.stdout, sum.text())
	}
	switch {
	case errors.Is(err, context.Canceled) && sum.left() == 0:
		return a.all(o.names) // it was done before it was stopped
	case err != nil && ctx.Err() != nil && a.local == nil:
		return fmt.Errorf("stopped, as asked (%s in the spool, for the daemon to send when its turn comes)", remains(sum.left()))
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("stopped, as asked (%s in the spool)", remains(sum.left()))
	case err != nil:
		return fmt.Errorf("%w (%s in the spool)", err, remains(sum.left()))
	case sum.left() > 0:
		return errLeft
	}
	return a.all(o.names)
}

// all is errLeft where mail that may have been meant is not reached.
func (a *access) all(ids []string) error {
	if a.done(ids) != exitDone {
		return errLeft
	}
	return nil
}

// agreedTo asks whether the destination of some is to be changed, and tells why it must not.
func (p *program) agreedTo(ctx context.Context, some *found, o *order) error {
	if !isTerminal(p.stdin) {
		return errNobodyToAsk
	}
	if p.agreed(ctx, some, fmt.Sprintf("Send %s (%s) to exchange %q with key %q, now and from now on?",
		count(len(some.ids), "mail"), some.listeners(), o.to.Exchange, o.to.RoutingKey)) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Fprintln(p.stderr, "Nothing is changed.")
	return errLeft
}

// remains is "1 mail stays" or "2 mails stay".
func remains(n int) string {
	if n == 1 {
		return "1 mail stays"
	}
	return count(n, "mail") + " stay"
}
