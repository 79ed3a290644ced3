package amqptest

import (
	"fmt"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

// channel is one AMQP channel.
type channel struct {
	conn   *conn
	id     uint16
	number int // of the broker's

	// owned by the conn's serve
	confirming bool
	tag        uint64   // of the last publish
	publish    *Publish // whose content is still to come; nil: none
	awaited    uint64   // octets of its body

	closed bool // guarded by conn.mu: we closed it, and wait for the client's word
}

// onChannel handles a frame of a channel.
func (c *conn) onChannel(f frame) error {
	ch := c.channels[f.channel]
	if f.kind == frameMethod {
		switch m, _ := f.method(); {
		case m == channelOpen && ch == nil:
			c.openChannel(f.channel)
			return nil
		case m == channelClose:
			delete(c.channels, f.channel)
			c.mu.Lock()
			defer c.mu.Unlock()
			if ch != nil {
				ch.closed = true
			}
			c.enqueue(appendFrame(nil, frameMethod, f.channel, newCall(channelCloseOK)))
			return nil
		case m == channelCloseOK:
			delete(c.channels, f.channel)
			return nil
		}
	}
	switch {
	case ch == nil:
		return &amqp.Error{Code: amqp.ChannelError, Reason: "CHANNEL_ERROR - expected 'channel.open'"}
	case ch.isClosed():
		return nil // what was under way
	case f.kind == frameMethod:
		return ch.onMethod(f)
	}
	return ch.onContent(f)
}

func (c *conn) openChannel(id uint16) {
	c.broker.mu.Lock()
	c.broker.channels++
	number := c.broker.channels
	c.broker.tell()
	c.broker.mu.Unlock()
	ch := &channel{conn: c, id: id, number: number}
	c.channels[id] = ch
	ch.send(newCall(channelOpenOK).longstr(""))
}

// onMethod handles the methods of a publisher.
func (ch *channel) onMethod(f frame) error {
	if ch.publish != nil {
		return &amqp.Error{Code: amqp.UnexpectedFrame,
			Reason: "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"}
	}
	m, a := f.method()
	switch m {
	case basicPublish:
		return ch.begin(a)
	case confirmSelect:
		ch.confirming = true
		ch.answer(a.octet(), newCall(confirmSelectOK))
	case exchangeDeclare:
		ch.declare("exchange", a, newCall(exchangeDeclareOK))
	case queueDeclare:
		ch.declare("queue", a, newCall(queueDeclareOK))
	case exchangeBind:
		ch.bind("exchange", a, newCall(exchangeBindOK))
	case queueBind:
		ch.bind("queue", a, newCall(queueBindOK))
	default:
		return &amqp.Error{Code: amqp.NotImplemented, Reason: fmt.Sprintf("NOT_IMPLEMENTED - method %#x by this double", m)}
	}
	return a.err
}

// answer sends ok unless the no-wait flag is set.
func (ch *channel) answer(noWait byte, ok call) {
	if noWait&1 == 0 {
		ch.send(ok)
	}
}

// declare handles exchange.declare and queue.declare, which differ in a type and in the answer.
func (ch *channel) declare(what string, a *args, ok call) {
	_ = a.short()
	name := a.shortstr()
	if what == "exchange" {
		_ = a.shortstr() // its type
	} else {
		ok = ok.shortstr(name).long(0).long(0)
	}
	const passive, noWait = 1, 4 // bits
	flags := a.octet()
	if why := ch.conn.broker.declare(what, name, flags&passive != 0); why != nil {
		ch.close(why.code, why.text)
		return
	}
	ch.answer(flags>>noWait, ok)
}

// bind handles exchange.bind and queue.bind, which look the same.
func (ch *channel) bind(what string, a *args, ok call) {
	_ = a.short()
	name, exchange, key := a.shortstr(), a.shortstr(), a.shortstr()
	ch.conn.broker.bind(what, name, exchange, key)
	ch.answer(a.octet(), ok)
}

// begin handles basic.publish. Under an alarm RabbitMQ reads nothing after it.
func (ch *channel) begin(a *args) error {
	if err := ch.conn.heedAlarm(); err != nil {
		return err
	}
	_ = a.short()
	ch.publish = &Publish{channel: ch, Connection: ch.conn.number, Channel: ch.number, Exchange: a.shortstr(), RoutingKey: a.shortstr()}
	ch.publish.Mandatory = a.octet()&1 != 0
	return a.err
}

// heedAlarm tells the client of an alarm and waits for its end.
func (c *conn) heedAlarm() error {
	for {
		reason, calm := c.broker.alarmed()
		if reason == "" {
			return nil
		}
		if c.blockable {
			c.send(newCall(connectionBlocked).shortstr(reason))
		}
		select {
		case <-calm:
		case <-c.done:
			return errOver
		}
		if c.blockable {
			c.send(newCall(connectionUnblocked))
		}
	}
}

// onContent handles a content header, or a piece of a body.
func (ch *channel) onContent(f frame) error {
	p := ch.publish
	var err error
	switch {
	case p == nil || f.kind == frameHeader && p.header != nil || f.kind == frameBody && p.header == nil:
		return &amqp.Error{Code: amqp.UnexpectedFrame, Reason: "UNEXPECTED_FRAME - content that nothing announced"}
	case f.kind == frameHeader:
		p.header = f.payload
		p.Publishing, err = properties(f.payload)
		ch.awaited = contentSize(f.payload)
	case f.kind == frameBody && uint64(len(f.payload)) <= ch.awaited:
		p.Body = append(p.Body, f.payload...)
		ch.awaited -= uint64(len(f.payload))
	default:
		return &amqp.Error{Code: amqp.FrameError, Reason: "FRAME_ERROR - more of a body than was announced"}
	}
	if err != nil {
		return &amqp.Error{Code: amqp.SyntaxError, Reason: "SYNTAX_ERROR - " + err.Error()}
	}
	if ch.awaited == 0 {
		ch.publish = nil
		ch.complete(p)
	}
	return nil
}

// complete refuses p where RabbitMQ would by itself; otherwise the script has it.
func (ch *channel) complete(p *Publish) {
	if why := ch.conn.broker.writable(p.Exchange, p.RoutingKey); why != nil {
		ch.close(why.code, why.text)
		return
	}
	if _, err := strconv.ParseUint(p.Expiration, 10, 32); p.Expiration != "" && err != nil {
		ch.close(amqp.PreconditionFailed, fmt.Sprintf("PRECONDITION_FAILED - invalid expiration '%s': no_integer", p.Expiration))
		return
	}
	if ch.confirming {
		ch.tag++
		p.Tag = ch.tag
	}
	ch.conn.broker.arrived(p)
}

func (ch *channel) isClosed() bool {
	ch.conn.mu.Lock()
	defer ch.conn.mu.Unlock()
	return ch.closed
}

// send sends a method, unless the channel or the connection is closed or closing.
func (ch *channel) send(m call) { ch.enqueue(appendFrame(nil, frameMethod, ch.id, m)) }

// sendContent sends a method with a content, in one piece on the connection.
func (ch *channel) sendContent(m call, header, body []byte) {
	frames := appendFrame(nil, frameMethod, ch.id, m)
	frames = appendFrame(frames, frameHeader, ch.id, header)
	for most := ch.conn.frameMax - frameOverhead; len(body) > 0; {
		n := min(most, len(body))
		frames = appendFrame(frames, frameBody, ch.id, body[:n])
		body = body[n:]
	}
	ch.enqueue(frames)
}

func (ch *channel) enqueue(frames []byte) {
	ch.conn.mu.Lock()
	defer ch.conn.mu.Unlock()
	if !ch.closed && !ch.conn.closing {
		ch.conn.enqueue(frames)
	}
}

const longestShortstr = 255

// close tells the client to close the channel, and why; until its answer whatever else it sends there is dropped.
func (ch *channel) close(code uint16, text string) {
	ch.conn.mu.Lock()
	defer ch.conn.mu.Unlock()
	if ch.closed || ch.conn.closing {
		return
	}
	if len(text) > longestShortstr { // cut as RabbitMQ does it
		text = text[:longestShortstr-3] + "..."
	}
	m := newCall(channelClose).short(code).shortstr(text).long(uint32(basicPublish))
	ch.conn.enqueue(appendFrame(nil, frameMethod, ch.id, m))
	ch.closed = true
}
