package publish

import (
	"regexp"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// culprit is whom the broker closed a channel for. The zero value is nobody who is known.
type culprit struct {
	blames
	destination       // its exchange alone where the exchange is to blame
	least       int64 // octets of a payload that the broker takes no more
}

// blames is what of a culprit the broker does not take mail for.
type blames int

const (
	nobody  blames = iota
	anyMail        // of its exchange
	itsMail        // of its destination: the exchange may take other keys
	tooMuch        // of so many octets
	oneMail        // the only one that was out: nobody knows what of it
)

// A reason is at most so long; RabbitMQ ends one that it cut in these dots (rabbit_binary_generator:map_exception).
const (
	longestReason = 255
	cutMark       = "..."
	inVhost       = "' in vhost '"
)

// judge finds the culprit among what was out: published and not answered. It reads no name from the reason, in which senders may have
// a part; it compares the reason with what RabbitMQ would say of each exchange and destination that is out. Where they differ, but only
// one message was out, that is the one.
func judge(reason *amqp.Error, out map[*Ticket]int64) culprit {
	switch reason.Code {
	case amqp.PreconditionFailed:
		who := oversize(reason.Reason, out)
		if who.blames == nobody && len(out) == 1 {
			who.blames = oneMail
		}
		return who
	case amqp.NotFound, amqp.AccessRefused:
	default:
		return culprit{}
	}
	all := map[destination]bool{}
	for t := range out {
		all[destinationOf(t.delivery)] = true
	}
	if who, sure := byName(reason.Reason, all); sure {
		return who
	}
	if len(out) == 1 {
		for d := range all {
			return culprit{blames: itsMail, destination: d}
		}
	}
	return culprit{}
}

// byName finds the one of all that a reason of RabbitMQ's names. A name may begin as a whole reason for another does: then the longer
// words are the culprit's.
func byName(reason string, all map[destination]bool) (who culprit, sure bool) {
	said, cut := uncut(reason)
	most := 0
	consider := func(c culprit) {
		switch n := c.matches(said, cut); {
		case n > most:
			who, most, sure = c, n, true
		case n == most && n > 0 && c != who:
			sure = false
		}
	}
	for d := range all {
		consider(culprit{blames: anyMail, destination: destination{exchange: d.exchange}})
		consider(culprit{blames: itsMail, destination: d})
	}
	return who, sure
}

// uncut returns what is left of a reason, and whether something is missing.
func uncut(reason string) (said string, cut bool) {
	if said, cut = strings.CutSuffix(reason, cutMark); cut && len(reason) == longestReason {
		return said, true
	}
	return reason, false
}

// namedBy tells whether a reason names c.
func (c culprit) namedBy(reason string) bool { return c.matches(uncut(reason)) > 0 }

// matches returns how many octets of what was said are of c's words; 0 where it was said of something else.
func (c culprit) matches(said string, cut bool) int {
	for _, words := range c.words() {
		rest, whole := strings.CutPrefix(said, words)
		switch {
		case whole && !strings.Contains(rest, inVhost):
			return len(words)
		case cut && strings.HasPrefix(words, said):
			return len(said)
		}
	}
	return 0
}

// words are how a reason begins that RabbitMQ gives for c: 3.10, and 4.0 with "write". The default exchange has a name in permissions.
func (c culprit) words() []string {
	const refused, write = "ACCESS_REFUSED - ", "ACCESS_REFUSED - write "
	switch {
	case c.blames == itsMail:
		topic := "access to topic '" + c.key + "' in exchange '" + c.exchange + inVhost
		return []string{refused + topic, write + topic}
	case c.exchange == "":
		access := "access to exchange 'amq.default" + inVhost
		return []string{refused + access, write + access}
	}
	name := "exchange '" + c.exchange + inVhost
	return []string{"NOT_FOUND - no " + name, refused + "access to " + name, write + "access to " + name, refused + "cannot publish to internal " + name}
}

// includes tells whether t, which was out, is of the mail that the broker does not take.
func (c culprit) includes(t *Ticket) bool {
	switch c.blames {
	case anyMail:
		return c.exchange == t.delivery.Exchange
	case itsMail:
		return c.destination == destinationOf(t.delivery)
	case tooMuch:
		return t.octets >= c.least
	}
	return c.blames == oneMail
}

var oversized = regexp.MustCompile(`^PRECONDITION_FAILED - message size (\d+) is larger than configured max size (\d+)`)

// oversize is judge for a payload that is larger than the broker takes. It believes the broker only of a payload that is out.
func oversize(reason string, out map[*Ticket]int64) culprit {
	said := oversized.FindStringSubmatch(reason)
	if said == nil {
		return culprit{}
	}
	size, _ := strconv.ParseInt(said[1], 10, 64)
	most, err := strconv.ParseInt(said[2], 10, 64)
	if err != nil || most >= size {
		return culprit{}
	}
	for _, octets := range out {
		if octets == size {
			return culprit{blames: tooMuch, least: most + 1}
		}
	}
	return culprit{}
}

// blame remembers what mail the broker closed c for, so that it does not close the next one for it too. Everybody who was in doubt
// tells it, and it counts once.
func (p *Publisher) blame(c *channel) culprit {
	reason := c.why()
	if reason == nil {
		return culprit{}
	}
	c.blamed.Do(func() {
		switch who := c.culprit; who.blames {
		case anyMail:
			p.exchanges.blame(who.exchange, reason)
		case itsMail:
			p.refusals.refused(who.destination, reason)
		case tooMuch:
			c.link.refuses(who.least)
		}
	})
	return c.culprit
}
