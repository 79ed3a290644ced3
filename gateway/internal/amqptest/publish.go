package amqptest

import amqp "github.com/rabbitmq/amqp091-go"

// Publish is a message that has arrived whole, and what a script or a test does with it, now or later. What is done after the
// channel or the connection closed does nothing.
type Publish struct {
	N                    int // of this broker's messages, from 1
	Connection           int // of this broker's connections, from 1
	Channel              int // of this broker's channels, from 1
	Tag                  uint64
	Exchange, RoutingKey string
	Mandatory            bool
	amqp.Publishing      // Body is what came

	channel *channel
	header  []byte // the properties, as they came
}

// Ack acknowledges p alone.
func (p *Publish) Ack() { p.confirm(basicAck, 0) }

// AckUpTo acknowledges p and whatever was published before it on its channel.
func (p *Publish) AckUpTo() { p.confirm(basicAck, multiple) }

// Nack refuses p alone.
func (p *Publish) Nack() { p.confirm(basicNack, 0) }

// NackUpTo refuses p and whatever was published before it on its channel.
func (p *Publish) NackUpTo() { p.confirm(basicNack, multiple) }

// multiple is the flag of confirms that speak for more than one message.
const multiple = 1

func (p *Publish) confirm(m method, flags byte) {
	p.channel.send(newCall(m).longlong(p.Tag).octet(flags))
}

// Return sends p back, for example with 312 and "NO_ROUTE"; a broker acknowledges it afterwards.
func (p *Publish) Return(code uint16, text string) {
	back := newCall(basicReturn).short(code).shortstr(text).shortstr(p.Exchange).shortstr(p.RoutingKey)
	p.channel.sendContent(back, p.header, p.Body)
}

// Unroutable is what RabbitMQ does with a mandatory message that no queue takes: it returns and acknowledges it.
func (p *Publish) Unroutable() {
	p.Return(amqp.NoRoute, "NO_ROUTE")
	p.Ack()
}

// CloseChannel closes p's channel, for example with 406 and "PRECONDITION_FAILED - …". What was published behind p is dropped.
func (p *Publish) CloseChannel(code uint16, text string) { p.channel.close(code, text) }

// CloseConnection closes p's connection, for example with 541 and "INTERNAL_ERROR".
func (p *Publish) CloseConnection(code uint16, text string) { p.channel.conn.close(code, text) }

// Reset ends p's connection with RST.
func (p *Publish) Reset() { p.channel.conn.reset() }

// HalfAck writes half the frame of an acknowledgement, and nothing more on that connection, which stays open.
func (p *Publish) HalfAck() {
	ack := appendFrame(nil, frameMethod, p.channel.id, newCall(basicAck).longlong(p.Tag).octet(0))
	p.channel.conn.lastWords(ack[:len(ack)/2])
}

// Garbage writes what is no frame, and nothing more on that connection, which stays open.
func (p *Publish) Garbage() { p.channel.conn.lastWords([]byte("220 mx.example.org ESMTP\r\n")) }
