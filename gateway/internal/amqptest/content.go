package amqptest

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// contentSize is the length of the body that a content header promises.
func contentSize(header []byte) uint64 {
	a := &args{rest: header}
	_ = a.long() // class and weight
	return a.longlong()
}

// properties takes a content header apart, AMQP 0-9-1 sections 1.8.1 and 4.2.6.1.
func properties(header []byte) (amqp.Publishing, error) {
	a := &args{rest: header}
	_ = a.take(12) // class, weight and size
	flags := a.short()
	var p amqp.Publishing
	for i, read := range []func(){
		func() { p.ContentType = a.shortstr() },
		func() { p.ContentEncoding = a.shortstr() },
		func() { p.Headers = a.table() },
		func() { p.DeliveryMode = a.octet() },
		func() { p.Priority = a.octet() },
		func() { p.CorrelationId = a.shortstr() },
		func() { p.ReplyTo = a.shortstr() },
		func() { p.Expiration = a.shortstr() },
		func() { p.MessageId = a.shortstr() },
		func() { p.Timestamp = time.Unix(int64(a.longlong()), 0) },
		func() { p.Type = a.shortstr() },
		func() { p.UserId = a.shortstr() },
		func() { p.AppId = a.shortstr() },
	} {
		if flags&(1<<(15-i)) != 0 {
			read()
		}
	}
	return p, a.err
}
