package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"lsmtpd/gateway"
)

const spoolRmHelp = `usage: lsmtpd spool rm [FLAGS] ID...
       lsmtpd spool rm [FLAGS] --all | flags that select

Removes mail for good, after it has shown what would go and was told yes. Mail
that is just being published is awaited for up to 30 seconds: when it is not
delivered, it goes too, and when that is undecided, it stays. An ID may be cut
to its first digits while they are one mail's; flags that select must all hold.
Ctrl-C removes no more, and tells how many are gone.

What a client was told 250 for is lost by this: keep a copy of what you are not
sure of, with "lsmtpd spool show --raw ID".

flags:
{flags}

exit status: 0 all of it is removed, or there was none, 1 some is not, the answer
was not yes, or what is selected may wait in a directory that cannot be opened,
2 wrong usage, nobody to ask, or no daemon on --socket

examples:
  lsmtpd spool rm 3f2a91c0
  lsmtpd spool rm --listener tenant-a --older 720h --yes
`

func runSpoolRm(p *program, args []string) int {
	f := p.flags("spool rm", spoolRmHelp)
	open := f.spool()
	selected := f.selection().withTo().withAll()
	yes := f.Bool("yes", false, "do not ask")
	operands, err := f.parse(args, len(args))
	if err != nil {
		return f.refuse(err)
	}
	filter, err := selected.filter(operands)
	if err != nil {
		return f.refuse(err)
	}
	if !*yes && !isTerminal(p.stdin) {
		return f.refuse(errors.New("there is no terminal to ask on: --yes removes without asking"))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go p.stopOnSignal(ctx, stop)
	a, err := open(ctx)
	if err != nil {
		return f.unanswered(err)
	}
	defer a.close()
	some, err := p.find(ctx, a, filter, operands)
	if err != nil {
		return f.failed(err)
	}
	if len(some.ids) == 0 {
		fmt.Fprintln(p.stdout, "No mail in the spool is like that.")
		return a.done(operands)
	}
	if !*yes {
		err = a.asking(ctx, func() error {
			if p.agreed(ctx, some, fmt.Sprintf("Remove %s, %s, for good?", count(len(some.ids), "mail"), sizeText(some.octets))) {
				return nil
			}
			return errLeft
		})
	}
	switch {
	case errors.Is(err, errLeft):
		fmt.Fprintln(p.stderr, "Nothing is removed.")
		return exitFailed
	case err != nil:
		return f.unanswered(err)
	}
	sum := summary{total: len(some.ids)}
	bar := newProgress(p.stderr, sum.bar)
	err = a.Remove(ctx, some.ids, func(o gateway.Outcome) error {
		sum.add(o)
		bar.step()
		return nil
	})
	bar.end()
	fmt.Fprint(p.stdout, sum.text())
	switch {
	case errors.Is(err, context.Canceled) && sum.left() == 0: // it was done before it was stopped
	case err != nil && ctx.Err() != nil:
		return f.failed(fmt.Errorf("stopped, as asked (%s in the spool)", remains(sum.left())))
	case err != nil:
		return f.failed(err)
	}
	if sum.left() > 0 {
		return exitFailed
	}
	return a.done(operands)
}

// agreed shows what a question is about, and asks it. When ctx ends, the answer is no.
func (p *program) agreed(ctx context.Context, some *found, question string) bool {
	out := bufio.NewWriter(p.stderr)
	rows, now := newMailTable(out, terminalWidth(p.stderr)), time.Now()
	for i := range some.sample {
		_ = rows.add(&some.sample[i], now) // what cannot be shown is not agreed to either: the question fails too
	}
	_ = rows.flush()
	if more := len(some.ids) - len(some.sample); more > 0 {
		fmt.Fprintf(out, "… and %d more\n", more)
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	if out.Flush() != nil {
		return false
	}
	agreed := make(chan bool, 1)
	go func() { // it ends with the program
		answer, err := bufio.NewReader(p.stdin).ReadString('\n')
		answer = strings.ToLower(strings.TrimSpace(answer))
		agreed <- (err == nil || errors.Is(err, io.EOF)) && (answer == "y" || answer == "yes")
	}()
	select {
	case yes := <-agreed:
		return yes
	case <-ctx.Done():
		return false
	}
}
