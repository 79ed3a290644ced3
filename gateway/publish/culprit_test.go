package publish

import (
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// outOf are messages to destinations, one octet larger each, from 100 on.
func outOf(all ...destination) map[*Ticket]int64 {
	out := map[*Ticket]int64{}
	for i, d := range all {
		out[&Ticket{delivery: delivery(d.exchange, d.key)}] = int64(100 + i)
	}
	return out
}

// cutAsRabbitMQ is a reason as it is on the wire.
func cutAsRabbitMQ(reason string) string {
	if len(reason) > longestReason {
		return reason[:longestReason-len(cutMark)] + cutMark
	}
	return reason
}

func TestACulpritIsOneOfTheMessagesThatWereOut(t *testing.T) {
	long := strings.Repeat("l", 250)
	nasty := `a' in vhost '/' refused for user 'app`
	out := outOf(destination{"a", "k"}, destination{"", "q"}, destination{"amq.topic", "mail.a"}, destination{"my default exchange", "k"},
		destination{"it's in vhost '/'", "k"}, destination{"amq.topic", "default exchange"}, destination{"amq.topic", long + "1"},
		destination{"amq.topic", "m" + long}, destination{nasty, "k"}, destination{long, "k"}, destination{"amq.topic", long + "2"})
	exchange := func(name string) culprit { return culprit{blames: anyMail, destination: destination{exchange: name}} }
	topic := func(key string) culprit { return culprit{blames: itsMail, destination: destination{"amq.topic", key}} }
	for reason, want := range map[string]culprit{
		"NOT_FOUND - no exchange 'a' in vhost '/'":                                                         exchange("a"),
		"NOT_FOUND - no exchange 'it's in vhost '/'' in vhost '/'":                                         exchange("it's in vhost '/'"),
		"NOT_FOUND - no exchange 'my default exchange' in vhost '/'":                                       exchange("my default exchange"),
		"NOT_FOUND - no exchange '" + long + "' in vhost '/'":                                              exchange(long),
		"NOT_FOUND - no exchange 'nobody' in vhost '/'":                                                    {},
		"ACCESS_REFUSED - access to exchange 'a' in vhost '/' refused for user 'app'":                      exchange("a"),
		"ACCESS_REFUSED - write access to exchange 'a' in vhost '/' refused for user 'app'":                exchange("a"),
		"ACCESS_REFUSED - access to exchange '" + nasty + "' in vhost '/' refused for user 'app'":          exchange(nasty),
		"ACCESS_REFUSED - cannot publish to internal exchange 'a' in vhost '/'":                            exchange("a"),
		"ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'app'":            exchange(""),
		"ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'app'":      exchange(""),
		"ACCESS_REFUSED - access to topic 'mail.a' in exchange 'amq.topic' in vhost '/' refused for":       topic("mail.a"),
		"ACCESS_REFUSED - write access to topic 'mail.a' in exchange 'amq.topic' in vhost '/' refused for": topic("mail.a"),
		"ACCESS_REFUSED - access to topic 'default exchange' in exchange 'amq.topic' in vhost '/' refused": topic("default exchange"),
		"ACCESS_REFUSED - access to topic 'm" + long + "' in exchange 'amq.topic' in vhost '/' refused":    topic("m" + long),
		"ACCESS_REFUSED - access to topic '" + long + "1' in exchange 'amq.topic' in vhost '/' refused":    {}, // or was it the other one?
		"ACCESS_REFUSED - access to topic 'mail.b' in exchange 'amq.topic' in vhost '/' refused":           {},
		"ACCESS_REFUSED - default exchange":                                                                {},
	} {
		code := amqp.AccessRefused
		if strings.HasPrefix(reason, "NOT_FOUND") {
			code = amqp.NotFound
		}
		if got := judge(&amqp.Error{Code: code, Reason: cutAsRabbitMQ(reason)}, out); got != want {
			t.Errorf("%s: %+v, want %+v", reason, got, want)
		}
	}
}

func TestTheOnlyMessageThatWasOutIsTheCulpritWhateverTheBrokerSays(t *testing.T) {
	d := destination{"x", "k"}
	for code, want := range map[int]culprit{
		amqp.NotFound:           {blames: itsMail, destination: d},
		amqp.AccessRefused:      {blames: itsMail, destination: d},
		amqp.PreconditionFailed: {blames: oneMail},
		amqp.ResourceLocked:     {},
	} {
		reason := &amqp.Error{Code: code, Reason: "NO_WORDS - of RabbitMQ's"}
		if got := judge(reason, outOf(d)); got != want {
			t.Errorf("%d: %+v, want %+v", code, got, want)
		}
		if got := judge(reason, outOf(d, d)); got != (culprit{}) {
			t.Errorf("%d: %+v of two", code, got)
		}
	}
}

func TestASizeThatTheBrokerDoesNotTakeIsBelievedOfAPayloadThatWasOut(t *testing.T) {
	out := outOf(destination{"x", "k"}, destination{"x", "k"})
	for reason, want := range map[string]culprit{
		"PRECONDITION_FAILED - message size 101 is larger than configured max size 99":    {blames: tooMuch, least: 100},
		"PRECONDITION_FAILED - message size 17 is larger than configured max size 16":     {},
		"PRECONDITION_FAILED - message size 100 is larger than configured max size 100":   {},
		"said: PRECONDITION_FAILED - message size 100 is larger than configured max size": {},
	} {
		if got := judge(&amqp.Error{Code: amqp.PreconditionFailed, Reason: reason}, out); got != want {
			t.Errorf("%s: %+v, want %+v", reason, got, want)
		}
	}
}
