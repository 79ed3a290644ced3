package amqptest

import (
	"errors"
	"reflect"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func dial(t *testing.T, b *Broker) *amqp.Connection {
	t.Helper()
	return dialWith(t, b.URL(), amqp.Config{})
}

func dialWith(t *testing.T, url string, c amqp.Config) *amqp.Connection {
	t.Helper()
	conn, err := amqp.DialConfig(url, c)
	must(t, err)
	t.Cleanup(func() { conn.CloseDeadline(time.Now().Add(time.Second)) }) // before the double's end; some do not answer
	return conn
}

// channelOf is a channel in confirm mode.
func channelOf(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	must(t, err)
	must(t, ch.Confirm(false))
	return ch
}

func publish(t *testing.T, ch *amqp.Channel, exchange string) *amqp.DeferredConfirmation {
	t.Helper()
	dc, err := ch.PublishWithDeferredConfirm(exchange, "k", true, false, amqp.Publishing{Body: []byte("text")})
	must(t, err)
	return dc
}

// sending publishes with an expiration and returns what the channel is closed for.
func sending(exchange, expiration string) func(*amqp.Channel) error {
	return func(ch *amqp.Channel) error {
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		if err := ch.Publish(exchange, "k", false, false, amqp.Publishing{Expiration: expiration}); err != nil {
			return err
		}
		return <-closed
	}
}

func passive(ch *amqp.Channel, exchange string) error {
	return ch.ExchangeDeclarePassive(exchange, amqp.ExchangeTopic, true, false, false, false, nil)
}

func declare(ch *amqp.Channel, exchange string) error {
	return ch.ExchangeDeclare(exchange, amqp.ExchangeTopic, true, false, false, false, nil)
}

func confirmed(t *testing.T, dc *amqp.DeferredConfirmation) {
	t.Helper()
	if !answer(t, dc) {
		t.Errorf("message %d is not acknowledged", dc.DeliveryTag)
	}
}

// refused is true of what a closed channel left unanswered, too: the library tells the two apart no further.
func refused(t *testing.T, dc *amqp.DeferredConfirmation) {
	t.Helper()
	if answer(t, dc) {
		t.Errorf("message %d is acknowledged", dc.DeliveryTag)
	}
}

func answer(t *testing.T, dc *amqp.DeferredConfirmation) (acked bool) {
	t.Helper()
	select {
	case <-dc.Done():
		return dc.Acked()
	case <-time.After(patience):
		t.Fatalf("message %d has no answer after %v", dc.DeliveryTag, patience)
		return false
	}
}

func wait[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("nothing came within %v", patience)
	}
	return v
}

func isCode(err error, code int) bool {
	told, ok := errors.AsType[*amqp.Error](err)
	return ok && told.Code == code
}

func equal(a, b amqp.Publishing) bool { return reflect.DeepEqual(a, b) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
