package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/admin"
	"lsmtpd/gateway/mail"
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
	ways     []routes.Way
	broker   *publish.Inspection
	asked    map[string]error // exchanges: nil where mail can be published
	queues   map[string]error
	unasked  int // exchanges that a broker was not asked to write to, because it takes no mail now
	faults   config.Faults
	warnings config.Faults
	lines    []string // a row for each way that mail can go
}

// errUnasked is what is known of an exchange that is there, and whose broker takes no mail now.
var errUnasked = errors.New("not asked whether it may be written to")

// checkBroker asks the broker about every way that mail of table can go, prints them, and tells whether all is well.
func (p *program) checkBroker(table *routes.Table) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	wakeDaemon(ctx, table.Config.Admin.Socket)
	broker, unreached := publish.Inspect(ctx, &table.Config.AMQP)
	i := &inspection{table: table, ways: table.Ways(), broker: broker, asked: map[string]error{}, queues: map[string]error{}}
	for _, u := range unreached {
		i.unreached(u)
	}
	if broker == nil {
		i.tell(p)
		return false, nil
	}
	defer broker.Close()
	i.existence()
	i.topology()
	i.writing() // a broker with an alarm answers nothing more after the first publish
	i.size()
	i.blocked()
	for _, w := range i.ways {
		i.way(&w)
	}
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
	i.tell(p)
	return len(i.faults) == 0, nil
}

// wakeDaemon has a daemon that runs try its broker at once: who checks has mended something. What it says of it is in its status;
// where there is none, or it is busy, nothing is lost.
func wakeDaemon(ctx context.Context, socket string) {
	if socket == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	_, _ = (&admin.Client{Socket: socket}).Probe(ctx)
}

// tell prints what is wrong, or odd.
func (i *inspection) tell(p *program) {
	for _, f := range i.warnings {
		fmt.Fprintln(p.stderr, "warning: "+printableLine(f.String()))
	}
	for _, f := range i.faults {
		fmt.Fprintln(p.stderr, printableLine(f.String()))
	}
}

// unreached tells of a URL that leads to no broker. As long as another one does, mail goes there.
func (i *inspection) unreached(u publish.Unreached) {
	f := i.urlFault(u.URL, u.Err.Error())
	if i.broker == nil {
		i.faults = append(i.faults, f)
		return
	}
	i.warnings = append(i.warnings, f)
}

// urlFault is about one of amqp.urls.
func (i *inspection) urlFault(url int, message string) config.Fault {
	return i.table.Config.Fault("amqp.urls["+strconv.Itoa(url)+"]", message)
}

// existence asks for every exchange, and every queue that the default one leads to.
func (i *inspection) existence() {
	for _, w := range i.ways {
		if w.Exchange == nil {
			continue
		}
		if _, known := i.asked[*w.Exchange]; !known {
			i.asked[*w.Exchange] = i.broker.Exchange(*w.Exchange)
		}
		if *w.Exchange != "" || w.Key == nil {
			continue
		}
		if _, known := i.queues[*w.Key]; !known {
			i.queues[*w.Key] = i.broker.Queue(*w.Key)
		}
	}
}

// writing asks whether each exchange that is there may be written to.
func (i *inspection) writing() {
	for _, name := range slices.Sorted(maps.Keys(i.asked)) {
		if i.asked[name] != nil {
			continue
		}
		err := i.broker.Writable(name)
		if i.broker.Blocked() != nil {
			err = errUnasked
			i.unasked++
		}
		i.asked[name] = err
	}
}

// blocked tells what the broker was not asked because it takes no mail now.
func (i *inspection) blocked() {
	err := i.broker.Blocked()
	if err == nil {
		return
	}
	unasked := "what it takes of amqp.max_message_size"
	if i.unasked > 0 {
		unasked = "whether " + count(i.unasked, "exchange") + " may be written to, nor " + unasked
	}
	i.faults = append(i.faults, i.urlFault(i.broker.URL, err.Error()+": it was not asked "+unasked))
}

// way makes the row of one way.
func (i *inspection) way(w *routes.Way) {
	result := "known only by its mail"
	if w.Exchange != nil {
		err := i.asked[*w.Exchange]
		if *w.Exchange == "" && w.Key != nil && (err == nil || err == errUnasked) {
			err = cmp.Or(i.queues[*w.Key], err)
		}
		result = i.result(w)
		switch {
		case err == errUnasked:
			result = strings.Replace(result, "ok", "there, but "+errUnasked.Error(), 1)
		case err != nil && i.declares(w, err):
			result = strings.Replace(result, "ok", "declared by amqp.topology when lsmtpd starts", 1)
		case err != nil:
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

// declares tells whether what the broker has not got is what amqp.topology declares.
func (i *inspection) declares(w *routes.Way, err error) bool {
	told, ok := errors.AsType[*amqp.Error](err)
	t := i.table.Config.AMQP.Topology
	switch {
	case !ok || told.Code != amqp.NotFound:
		return false
	case *w.Exchange == "":
		return slices.ContainsFunc(t.Queues, func(q config.Queue) bool { return q.Name == *w.Key })
	}
	return slices.ContainsFunc(t.Exchanges, func(e config.Exchange) bool { return e.Name == *w.Exchange })
}

// topology tells what the broker has otherwise than amqp.topology says, and of frames that make more messages of one mail.
func (i *inspection) topology() {
	c := i.table.Config
	for _, err := range i.broker.Topology(c.AMQP.Topology) {
		i.faults = append(i.faults, c.Fault("amqp.topology", err.Error()))
	}
	if n := i.broker.MaxTable(); n < mail.MaxTable {
		i.warnings = append(i.warnings, c.Fault("amqp.urls", fmt.Sprintf(
			"the broker's frame_max leaves %d octets for headers: a raw mail to many recipients becomes several messages", n)))
	}
}

func (i *inspection) fault(w *routes.Way, message string) {
	i.faults = append(i.faults, faultOf(w, message))
}

// faultOf is about where w is configured.
func faultOf(w *routes.Way, message string) config.Fault {
	f := w.Listener.Fault("exchange", message)
	if w.Route >= 0 {
		f = w.Listener.RouteFault(w.Route, w.At(), message)
	}
	return f
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
	const listed = "rabbitmqctl list_bindings shows them"
	queues, known := boundBy(i.table.Config.AMQP.Topology, *w.Exchange, w.Shape)
	switch {
	case len(queues) > 0 && w.Key == nil:
		return "ok, amqp.topology routes such keys to " + strings.Join(queues, ", ")
	case len(queues) > 0:
		return "ok, amqp.topology routes it to " + strings.Join(queues, ", ")
	case known:
		const none = "no binding in amqp.topology takes its key"
		i.warnings = append(i.warnings, faultOf(w, none+": where no other does, its mail is returned ("+listed+")"))
		return "ok, but " + none
	}
	return "ok, its bindings are not in amqp.topology (" + listed + ")"
}

// boundBy returns the queues that t routes to from an exchange that it declares, and tells whether t says how that one routes: it has
// bindings there, and their kind is known here. In key routes.Unknown stands for anything.
func boundBy(t config.Topology, exchange, key string) (queues []string, known bool) {
	at := slices.IndexFunc(t.Exchanges, func(e config.Exchange) bool { return e.Name == exchange })
	if at < 0 {
		return nil, false
	}
	for _, b := range t.Bindings {
		if b.Exchange != exchange {
			continue
		}
		takes := false
		switch t.Exchanges[at].Type {
		case amqp.ExchangeFanout:
			takes = true
		case amqp.ExchangeDirect:
			takes = direct(b.RoutingKey, key)
		case amqp.ExchangeTopic:
			takes = topic(strings.Split(b.RoutingKey, "."), strings.Split(key, "."))
		default:
			return nil, false
		}
		known = true
		if takes && !slices.Contains(queues, b.Queue) {
			queues = append(queues, b.Queue)
		}
	}
	return queues, known
}

// direct tells whether a direct exchange's binding takes a key, in which routes.Unknown stands for any octets.
func direct(binding, key string) bool {
	parts := strings.Split(key, routes.Unknown)
	rest, is := strings.CutPrefix(binding, parts[0])
	if len(parts) == 1 {
		return is && rest == ""
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, after, found := strings.Cut(rest, part)
		rest, is = after, is && found
	}
	return is && strings.HasSuffix(rest, parts[last])
}

// topic tells whether a topic exchange's pattern may take a key: * is a word, # any number of words. routes.Unknown in the key
// stands for any octets, dots too, so that its word may be several.
func topic(pattern, key []string) bool {
	switch {
	case len(pattern) == 0:
		return len(key) == 0
	case len(key) == 0:
		return pattern[0] == "#" && topic(pattern[1:], key)
	case pattern[0] == "#" && (topic(pattern[1:], key) || topic(pattern, key[1:])):
		return true
	case pattern[0] != "#" && word(pattern[0], key[0]) && topic(pattern[1:], key[1:]):
		return true
	}
	for i := range len(key[0]) {
		if !strings.HasPrefix(key[0][i:], routes.Unknown) {
			continue
		}
		// A dot in what is unknown makes two words of one.
		first, rest := key[0][:i+1], slices.Concat([]string{key[0][i:]}, key[1:])
		switch {
		case pattern[0] == "#" && i > 0 && topic(pattern, rest):
			return true
		case pattern[0] != "#" && word(pattern[0], first) && topic(pattern[1:], rest):
			return true
		}
	}
	return false
}

// word tells whether a word of a topic exchange's pattern may take one of a key.
func word(pattern, key string) bool { return pattern == "*" || direct(pattern, key) }

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
		if err := i.broker.Takes(exchange, most); err != nil && i.broker.Blocked() == nil {
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
