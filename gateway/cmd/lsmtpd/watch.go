package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"lsmtpd/gateway"
	"lsmtpd/gateway/admin"

	amqp "github.com/rabbitmq/amqp091-go"
)

// errEnough ends a tail that has printed what was asked for.
var errEnough = errors.New("enough")

// tailDaemon prints what the daemon has confirmed until a signal, or the number of mails asked for.
func (p *program) tailDaemon(t *tail, client *admin.Client) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go p.stopOnSignal(ctx, stop)
	w, printed := bufio.NewWriter(p.stdout), 0
	_, err := ask(ctx, client)
	if err != nil && ctx.Err() == nil {
		return err
	}
	err = client.Tail(ctx, func() error {
		fmt.Fprintf(p.stderr, "Watching what the daemon on %s publishes. Ctrl-C ends it.\n", client.Socket)
		return nil
	}, func(c gateway.Copy) error {
		if c.LeftOut > 0 {
			fmt.Fprintf(p.stderr, "%s left out here: mail comes faster than it is printed.\n", count(int(c.LeftOut), "message"))
		}
		d := delivered(c)
		if err := t.print.print(w, &d); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if printed++; printed == t.most {
			return errEnough
		}
		return nil
	})
	switch {
	case ctx.Err() != nil, errors.Is(err, errEnough):
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the daemon has stopped")
	}
	return err
}

// delivered is a copy as a queue would have delivered it.
func delivered(c gateway.Copy) amqp.Delivery {
	d := amqp.Delivery{
		MessageId: c.MessageID, Exchange: c.Exchange, RoutingKey: c.RoutingKey, ContentType: c.ContentType,
		Timestamp: c.Timestamp, Headers: amqp.Table{}, Body: c.Body,
	}
	for name, value := range c.Headers {
		if number, ok := value.(json.Number); ok {
			value, _ = number.Int64() // all that lsmtpd writes are
		}
		d.Headers[name] = value
	}
	return d
}
