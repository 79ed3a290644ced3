package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/publish"
	"lsmtpd/routes"
	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	checkTimeout = time.Minute
	largestTried = 256 << 20 // octets of a message that is sent to see whether the broker takes it
)

// inspection is what check --broker found.
type inspection struct {
	table    *routes.Table
	broker   *publish.Inspection
	asked    map[string]error // exchanges
	faults   config.Faults
	warnings config.Faults
	lines    []string // a row for each way that mail can go
}

// checkBroker asks the broker about every way that mail of table can go, prints them, and tells whether all is well.
func (p *program) checkBroker(table *routes.Table) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	broker, err := publish.Inspect(ctx, &table.Config.AMQP)
	if err != nil {
		return false, err
	}
	defer broker.Close()
	i := &inspection{table: table, broker: broker, asked: map[string]error{}}
	for _, w := range table.Ways() {
		i.way(&w)
	}
	i.size()
	i.limits()
	if ctx.Err() != nil {
		return false, fmt.Errorf("broker %s did not answer within %s", broker.Broker, checkTimeout)
	}
	fmt.Fprintf(p.stdout, "broker %s:\n", broker.Broker)
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  LISTENER\tROUTE\tEXCHANGE\tKEY\tRESULT")
	for _, line := range i.lines {
		fmt.Fprintln(w, line)
	}
	_ = w.Flush()
	for _, f := range i.warnings {
		fmt.Fprintln(p.stderr, "warning: "+printableLine(f.String()))
	}
	for _, f := range i.faults {
		fmt.Fprintln(p.stderr, printableLine(f.String()))
	}
	return len(i.faults) == 0, nil
}

// way asks for one way.
func (i *inspection) way(w *routes.Way) {
	result := "known only by its mail"
	if w.Exchange != nil {
		err, known := i.asked[*w.Exchange]
		if !known {
			err = i.broker.Exchange(*w.Exchange)
			i.asked[*w.Exchange] = err
		}
		if err == nil && *w.Exchange == "" && w.Key != nil {
			err = i.broker.Queue(*w.Key)
		}
		result = i.result(w)
		if err != nil {
			result = answer(err)
			i.fault(w, result)
		}
	}
	name := "(default)"
	if w.Route >= 0 {
		name = w.Listener.Routes[w.Route].Name
		if name == "" {
			name = "#" + strconv.Itoa(w.Route+1)
		}
	}
	i.lines = append(i.lines, strings.Join([]string{
		"  " + printableLine(w.Listener.Name), printableLine(name), known(w.Exchange), known(w.Key), printableLine(result),
	}, "\t"))
}

// known is a name of the broker's, or that there is none before there is mail.
func known(name *string) string {
	if name == nil {
		return "{…}"
	}
	return printableLine(strconv.Quote(*name))
}

func (i *inspection) fault(w *routes.Way, message string) {
	f := w.Listener.Fault("exchange", message)
	if w.Route >= 0 {
		f = w.Listener.RouteFault(w.Route, w.At(), message)
	}
	i.faults = append(i.faults, f)
}

// answer is what the broker said, without AMQP's numbers where it said anything.
func answer(err error) string {
	if told, ok := errors.AsType[*amqp.Error](err); ok && told.Server {
		return told.Reason
	}
	return err.Error()
}

// result is what is known of a way whose exchange takes mail: AMQP has no question for the bindings that others made.
func (i *inspection) result(w *routes.Way) string {
	if *w.Exchange == "" {
		return "ok, its queue is there"
	}
	queues := boundBy(i.table.Config.AMQP.Topology, *w.Exchange, w.Key)
	if len(queues) > 0 {
		return "ok, amqp.topology routes it to " + strings.Join(queues, ", ")
	}
	return "ok, its bindings are not in amqp.topology (rabbitmqctl list_bindings shows them)"
}

// boundBy returns the queues that t routes to from an exchange that it declares. key is nil where it is not known.
func boundBy(t config.Topology, exchange string, key *string) []string {
	at := slices.IndexFunc(t.Exchanges, func(e config.Exchange) bool { return e.Name == exchange })
	if at < 0 {
		return nil
	}
	var queues []string
	for _, b := range t.Bindings {
		takes := false
		switch t.Exchanges[at].Type {
		case amqp.ExchangeFanout:
			takes = true
		case amqp.ExchangeDirect:
			takes = key != nil && b.RoutingKey == *key
		case amqp.ExchangeTopic:
			takes = b.RoutingKey == "#" || key != nil && topic(strings.Split(b.RoutingKey, "."), strings.Split(*key, "."))
		}
		if takes && b.Exchange == exchange && !slices.Contains(queues, b.Queue) {
			queues = append(queues, b.Queue)
		}
	}
	return queues
}

// topic tells whether a topic exchange's pattern takes a key: * is a word, # any number of words.
func topic(pattern, key []string) bool {
	switch {
	case len(pattern) == 0:
		return len(key) == 0
	case pattern[0] == "#":
		return topic(pattern[1:], key) || len(key) > 0 && topic(pattern, key[1:])
	case len(key) == 0 || pattern[0] != "*" && pattern[0] != key[0]:
		return false
	}
	return topic(pattern[1:], key[1:])
}

// size finds out whether the broker takes what amqp.max_message_size says that it does.
func (i *inspection) size() {
	most := i.table.Config.AMQP.MaxMessageSize
	if most == 0 || most > largestTried {
		return
	}
	for exchange, err := range i.asked {
		if err != nil {
			continue
		}
		if err := i.broker.Takes(exchange, most); err != nil {
			i.faults = append(i.faults, i.table.Config.Fault("amqp.max_message_size", answer(err)))
		}
		return
	}
}

// limits tells of listeners whose size_limit is more than a message can carry.
func (i *inspection) limits() {
	for _, l := range i.table.Listeners {
		if told := gateway.SizeLimit(l, i.table.Config); l.SizeLimit == 0 && told > 0 || told < l.SizeLimit {
			i.warnings = append(i.warnings, l.Fault("size_limit", fmt.Sprintf(
				"is more than amqp.max_message_size or limits.memory leaves once a mail is encoded: clients are told %d octets", told)))
		}
	}
}
