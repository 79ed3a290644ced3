package rabbit

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	maxPrefetch = 500
	dialTimeout = time.Minute // of a broker on a busy machine
	maxTestName = 60          // of t's, in an AMQP name: those end at 255 octets
)

// Inbox is a durable queue of one test's, bound by "#" to a topic exchange of the same name.
type Inbox struct {
	Name string // of the queue and of the exchange
	URL  string
}

var notForNames = regexp.MustCompile(`[^A-Za-z0-9_]+`)

// Queue declares an Inbox that nobody else knows; it is deleted when t ends, if the broker still answers then.
func Queue(t testing.TB, url string) *Inbox {
	t.Helper()
	return queue(t, url, amqp.QueueTypeClassic)
}

// Quorum is Queue of a quorum queue, which has a copy on each node of a cluster.
func Quorum(t testing.TB, url string) *Inbox {
	t.Helper()
	return queue(t, url, amqp.QueueTypeQuorum)
}

func queue(t testing.TB, url, kind string) *Inbox {
	t.Helper()
	name := notForNames.ReplaceAllString(t.Name(), "-")
	q := &Inbox{Name: fmt.Sprintf("%.*s-%s", maxTestName, name, uuid.NewString()), URL: url}
	ch := q.channel(t)
	if err := ch.ExchangeDeclare(q.Name, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(q.Name, true, false, false, false, amqp.Table{amqp.QueueTypeArg: kind}); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, "#", q.Name, false, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.remove)
	return q
}

func (q *Inbox) remove() {
	conn, err := q.dial()
	if err != nil {
		return // it went with its broker
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return
	}
	_, _ = ch.QueueDelete(q.Name, false, false, true)
	_ = ch.ExchangeDelete(q.Name, false, true)
}

func (q *Inbox) dial() (*amqp.Connection, error) {
	return amqp.DialConfig(q.URL, amqp.Config{Dial: amqp.DefaultDial(dialTimeout)})
}

// channel is open until t ends.
func (q *Inbox) channel(t testing.TB) *amqp.Channel {
	t.Helper()
	conn, err := q.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// Drain takes the first n messages from q, in the order of the queue, and acknowledges them. It fails t unless they are there
// within timeout.
func Drain(t testing.TB, q *Inbox, n int, timeout time.Duration) []amqp.Delivery {
	t.Helper()
	conn, err := q.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // what was prefetched beyond n goes back to the queue
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(min(max(n, 1), maxPrefetch), 0, false); err != nil {
		t.Fatal(err)
	}
	incoming, err := ch.Consume(q.Name, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	enough := time.After(timeout)
	got := make([]amqp.Delivery, 0, n)
	for len(got) < n {
		select {
		case d, open := <-incoming:
			if !open {
				t.Fatalf("the broker went away after %d of %d messages", len(got), n)
			}
			if err := d.Ack(false); err != nil {
				t.Fatal(err)
			}
			got = append(got, d)
		case <-enough:
			t.Fatalf("%d of %d messages in queue %s after %v", len(got), n, q.Name, timeout)
		}
	}
	return got
}

// Depth is how many messages wait in q, unacknowledged ones not counted.
func Depth(t testing.TB, q *Inbox) int {
	t.Helper()
	conn, err := q.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	state, err := ch.QueueDeclarePassive(q.Name, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return state.Messages
}
