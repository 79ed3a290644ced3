package amqptest

import (
	"fmt"
	"regexp"
	"slices"
)

// Reset ends every open connection with RST.
func (b *Broker) Reset() {
	for _, c := range b.open() {
		c.reset()
	}
}

// CloseConnections closes every open connection as a broker does that is shut down: 320 and "CONNECTION_FORCED - …".
func (b *Broker) CloseConnections(code uint16, text string) {
	for _, c := range b.open() {
		c.close(code, text)
	}
}

// StopReading leaves in the sockets whatever clients write. What has to be written to them, heartbeats too, goes on.
func (b *Broker) StopReading() { b.reads.shut() }

// ReadOn ends StopReading.
func (b *Broker) ReadOn() { b.reads.open() }

// Freeze neither reads nor writes. New connections are accepted, go through their TLS handshake, and stay silent.
func (b *Broker) Freeze() {
	b.writes.shut()
	b.reads.shut()
}

// Thaw ends Freeze: what was held back goes on.
func (b *Broker) Thaw() {
	b.reads.open()
	b.writes.open()
}

// Block raises an alarm. As with RabbitMQ, a connection is told at its first publish after that, and nothing more is read
// from it, nor is that message, until Unblock.
func (b *Broker) Block(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.alarm == "" {
		b.calm = make(chan struct{})
	}
	b.alarm = reason
}

// Unblock ends the alarm.
func (b *Broker) Unblock() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.alarm != "" {
		close(b.calm)
		b.alarm = ""
	}
}

// alarmed tells of the alarm, if there is one: what for, and what is closed when it ends.
func (b *Broker) alarmed() (reason string, calm <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.alarm, b.calm
}

// Require sets the only user whom the double lets in from now on.
func (b *Broker) Require(l Login) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.login = l
}

// Logins are what clients gave so far, updated secrets too; by EXTERNAL it is the certificate's common name and no password.
func (b *Broker) Logins() []Login {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.logins)
}

// Vhost sets the only virtual host that there is from now on.
func (b *Broker) Vhost(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.vhost = name
}

// FrameMax makes connections from now on agree to frames of so many octets at most; a larger one ends its connection.
func (b *Broker) FrameMax(octets int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frameMax = octets
}

// Exchange sets how an exchange answers from now on.
func (b *Broker) Exchange(name string, s State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exchanges[name] = s
}

// Topics sets which keys of an exchange may be written from now on, as topic permissions do; nil is all of them.
func (b *Broker) Topics(exchange string, writable *regexp.Regexp) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.topics[exchange] = writable
}

// Queue sets how a queue answers from now on.
func (b *Broker) Queue(name string, s State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queues[name] = s
}

// Declared is what clients declared and bound so far, in their order: "exchange x", "passive exchange x", "queue q",
// "passive queue q", "bind queue q to x by key", "bind exchange y to x by key".
func (b *Broker) Declared() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.declared)
}

// declare enters a declaration of what, "exchange" or "queue", and says what is wrong with it in RabbitMQ's words.
func (b *Broker) declare(what, name string, passive bool) *refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.tell()
	states := b.exchanges
	if what == "queue" {
		states = b.queues
	}
	if passive {
		b.declared = append(b.declared, "passive "+what+" "+name)
		if states[name] == Missing {
			return missing(what, name, b.vhost)
		}
		return nil
	}
	b.declared = append(b.declared, what+" "+name)
	switch states[name] {
	case Missing:
		states[name] = Usable
	case Forbidden:
		return b.forbidden(what, name)
	case Inequivalent:
		return &refusal{406, fmt.Sprintf("PRECONDITION_FAILED - inequivalent arg 'durable' for %s '%s' in vhost '%s': received 'true' but current is 'false'", what, name, b.vhost)}
	}
	return nil
}

func (b *Broker) bind(what, name, exchange, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.declared = append(b.declared, fmt.Sprintf("bind %s %s to %s by %s", what, name, exchange, key))
	b.tell()
}

// writable says what keeps a publish from an exchange. As with RabbitMQ 3.10, its key is looked at last.
func (b *Broker) writable(exchange, key string) *refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.exchanges[exchange] {
	case Missing:
		return missing("exchange", exchange, b.vhost)
	case Forbidden:
		return b.forbidden("exchange", exchange)
	}
	if topics := b.topics[exchange]; topics != nil && !topics.MatchString(key) {
		return &refusal{403, fmt.Sprintf("ACCESS_REFUSED - access to topic '%s' in exchange '%s' in vhost '%s' refused for user '%s'", key, exchange, b.vhost, b.login.User)}
	}
	return nil
}

// refusal is the reason for which a channel or a connection is closed.
type refusal struct {
	code uint16
	text string
}

func missing(what, name, vhost string) *refusal {
	return &refusal{404, fmt.Sprintf("NOT_FOUND - no %s '%s' in vhost '%s'", what, name, vhost)}
}

// forbidden is said with b.mu held.
func (b *Broker) forbidden(what, name string) *refusal {
	return &refusal{403, fmt.Sprintf("ACCESS_REFUSED - access to %s '%s' in vhost '%s' refused for user '%s'", what, name, b.vhost, b.login.User)}
}
