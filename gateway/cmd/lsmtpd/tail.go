package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"lsmtpd/gateway/publish"
	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

const tailHelp = `usage: lsmtpd tail [FLAGS]
       lsmtpd tail --bind EXCHANGE [FLAGS]

Prints a copy of each message that the broker confirms to the running daemon,
from now on, until Ctrl-C. Nothing at the broker changes for that.

With --bind it asks the broker itself, and prints what EXCHANGE takes, from
whomever. For that it binds a queue of its own, which is gone when it ends.
Mind that queue: while tail runs, mail that no other queue takes counts as
routed, and is gone with it. The broker is the one of the configuration, or of
--url. Other users of this machine can see what is on a command line: a file
keeps a password better.

Where mail comes faster than it can be printed, some is left out.

flags:
{flags}

--raw prints mail after mail, octet for octet; with -n 1 it is exactly one. On
a terminal control octets are shown as escapes.

exit status: 0 after Ctrl-C or -n mails, 1 the daemon or the broker ended it, or
the exchange is not there, 2 wrong usage or no daemon there

examples:
  lsmtpd tail -c /etc/lsmtpd/lsmtpd.yaml
  lsmtpd tail --bind tenant-a --key "mail.#" --json
  lsmtpd tail -n 1 --raw > mail.eml
`

// What a tail that cannot keep up holds: here until it is printed, and in the broker before the oldest are dropped.
const (
	tailWindow = 64
	tailBuffer = 10_000
)

// tail is what the flags ask for.
type tail struct {
	exchange, key string
	keyGiven      bool
	most          int // mails; 0 is no end
	print         printer
}

func runTail(p *program, args []string) int {
	f := p.flags("tail", tailHelp)
	var t tail
	path := f.configFile()
	client := f.daemon(path)
	url := f.String("url", "", "the `URL` of the broker of --bind, like amqp://guest:guest@127.0.0.1:5672/")
	f.StringVar(&t.exchange, "bind", "", "the `EXCHANGE` to watch")
	f.StringVar(&t.key, "key", "#", "the `PATTERN` of keys to watch; a direct exchange needs one")
	f.IntVar(&t.most, "n", 0, "stop after this `NUMBER` of mails")
	raw := f.Bool("raw", false, "print the mails themselves")
	json := f.Bool("json", false, "print a JSON object for each mail, on one line")
	if _, err := f.parse(args, 0); err != nil {
		return f.refuse(err)
	}
	t.keyGiven = f.given("key")
	bind := f.given("bind")
	switch {
	case bind && t.exchange == "":
		return f.refuse(errors.New("--bind names no exchange: the default exchange cannot be bound to"))
	case !bind && (t.keyGiven || f.given("url")):
		return f.refuse(errors.New("--key and --url go with --bind"))
	case bind && f.given("socket"):
		return f.refuse(errors.New("--socket and --bind exclude each other"))
	case t.most < 0:
		return f.refuse(fmt.Errorf("-n %d: there are no fewer mails than none", t.most))
	case *raw && *json:
		return f.refuse(errors.New("--raw and --json exclude each other"))
	}
	t.print = printer{terminal: isTerminal(p.stdout), form: blocks}
	if *raw {
		t.print.form = mails
	}
	if *json {
		t.print.form = objects
	}
	if !bind {
		if err := p.tailDaemon(&t, client()); err != nil {
			return f.unanswered(err)
		}
		return exitDone
	}
	broker, err := brokerOf(*url, *path)
	if err != nil {
		return f.failed(err)
	}
	if err := p.tail(&t, broker); err != nil {
		return f.failed(err)
	}
	return exitDone
}

// tail prints what comes until a signal, or the number of mails asked for.
func (p *program) tail(t *tail, broker config.AMQP) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go p.stopOnSignal(ctx, stop)
	conn, node, err := publish.Dial(ctx, &broker, "lsmtpd tail")
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	hangUp := func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) } // a broker that hangs must not hold the user
	defer hangUp()

	release := context.AfterFunc(ctx, hangUp)
	feed, err := t.bind(conn)
	release()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("broker %s: %w", node, err)
	}
	fmt.Fprintf(p.stderr, "Watching exchange %q with key %q on %s. Ctrl-C ends it.\n", t.exchange, t.key, node)
	fmt.Fprintln(p.stderr, "Warning: while this runs, mail that no other queue takes counts as routed, and is gone with it.")
	return t.follow(ctx, bufio.NewWriter(p.stdout), feed)
}

// stopOnSignal calls stop at the first signal. The second has its ordinary effect: the terminal may be stopped.
func (p *program) stopOnSignal(ctx context.Context, stop func()) {
	select {
	case <-p.stops:
	case <-p.hangups:
	case <-ctx.Done():
		return
	}
	releaseSignals(p.stops)
	stop()
}

// feed is what a private queue gives.
type feed struct {
	deliveries <-chan amqp.Delivery
	closed     <-chan *amqp.Error // why deliveries ended, before they do
}

// bind makes the private queue and begins to consume it.
func (t *tail) bind(conn *amqp.Connection) (*feed, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := t.verify(conn, ch); err != nil {
		return nil, err
	}
	q, err := ch.QueueDeclare("", false, true, true, false, amqp.Table{"x-max-length": tailBuffer})
	if err != nil {
		return nil, fmt.Errorf("making a private queue: %w", err)
	}
	if err := ch.QueueBind(q.Name, t.key, t.exchange, false, nil); err != nil {
		return nil, fmt.Errorf("binding to exchange %q: %w", t.exchange, err)
	}
	if err := ch.Qos(tailWindow, 0, false); err != nil {
		return nil, err
	}
	deliveries, err := ch.Consume(q.Name, "", false, true, false, false, nil)
	return &feed{deliveries, closed}, err
}

// verify finds an exchange that is not there, and a direct one without a key.
func (t *tail) verify(conn *amqp.Connection, ch *amqp.Channel) error {
	err := ch.ExchangeDeclarePassive(t.exchange, "", false, false, false, false, nil)
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		return fmt.Errorf("there is no exchange %q", t.exchange)
	}
	if err != nil {
		return fmt.Errorf("exchange %q: %w", t.exchange, err)
	}
	if !t.keyGiven && exchangeKind(conn, t.exchange) == amqp.ExchangeDirect {
		return fmt.Errorf("exchange %q is a direct one, where %q is a key like any other: --key says which to watch", t.exchange, t.key)
	}
	return nil
}

// follow prints deliveries as they come.
func (t *tail) follow(ctx context.Context, w *bufio.Writer, f *feed) error {
	for printed := 0; t.most == 0 || printed < t.most; printed++ {
		select {
		case <-ctx.Done():
			return nil
		case d, ok := <-f.deliveries:
			if !ok {
				return ended(ctx, f.closed)
			}
			if err := t.print.print(w, &d); err != nil {
				return err
			}
			if err := w.Flush(); err != nil {
				return err
			}
			// Where this fails the channel is closed, which ends the loop with the reason.
			_ = d.Ack(false)
		}
	}
	return nil
}

// ended tells why there are no more deliveries, nil where that was our own wish.
func ended(ctx context.Context, closed <-chan *amqp.Error) error {
	if ctx.Err() != nil {
		return nil
	}
	select {
	case reason := <-closed: // told before the deliveries end; nil where that was before we asked
		if reason != nil {
			return fmt.Errorf("the connection to the broker ended: %w", reason)
		}
	default:
	}
	return errors.New("the broker took the queue away")
}
