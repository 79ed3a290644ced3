package amqptest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	channelMax = 2047
	heartbeat  = 60 // seconds, where the client wants nothing else
)

// errOver is the end of a connection of which everything is said.
var errOver = errors.New("the connection is over")

// handshake goes from the protocol header to connection.open-ok, AMQP 0-9-1 section 2.2.4.
func (c *conn) handshake() error {
	header := make([]byte, len(protocolHeader))
	if _, err := io.ReadFull(c.in, header); err != nil {
		return err
	}
	if string(header) != protocolHeader {
		c.mu.Lock()
		c.enqueue([]byte(protocolHeader))
		c.mu.Unlock()
		return errOver
	}
	c.send(c.greeting())
	a, err := c.expect(connectionStartOK)
	if err != nil {
		return err
	}
	if err := c.logIn(a); err != nil {
		return err
	}
	c.send(newCall(connectionTune).short(channelMax).long(uint32(c.frameMax)).short(heartbeat))
	if a, err = c.expect(connectionTuneOK); err != nil {
		return err
	}
	if err := c.tune(a); err != nil {
		return err
	}
	if a, err = c.expect(connectionOpen); err != nil {
		return err
	}
	vhost := a.shortstr()
	if only := c.broker.onlyVhost(); vhost != only {
		return &amqp.Error{Code: amqp.NotAllowed, Reason: fmt.Sprintf("NOT_ALLOWED - vhost %s not found", vhost)}
	}
	c.send(newCall(connectionOpenOK).shortstr(""))
	return a.err
}

func (c *conn) greeting() call {
	mechanisms := "PLAIN"
	if c.broker.tls != nil {
		mechanisms = "PLAIN EXTERNAL"
	}
	capabilities := call{}
	for _, name := range []string{"publisher_confirms", "basic.nack", "connection.blocked", "consumer_cancel_notify",
		"exchange_exchange_bindings", "authentication_failure_close"} {
		capabilities = capabilities.shortstr(name).octet('t').octet(1)
	}
	properties := call{}.shortstr("product").octet('S').longstr("amqptest").
		shortstr("capabilities").octet('F').longstr(string(capabilities))
	return newCall(connectionStart).octet(0).octet(9).longstr(string(properties)).longstr(mechanisms).longstr("en_US")
}

// expect reads a frame of channel 0 that must be m.
func (c *conn) expect(m method) (*args, error) {
	for {
		f, err := c.next()
		if err != nil {
			return nil, err
		}
		if f.kind == frameHeartbeat {
			continue
		}
		got, a := f.method()
		switch {
		case f.kind != frameMethod || f.channel != 0:
			return nil, &amqp.Error{Code: amqp.UnexpectedFrame, Reason: "UNEXPECTED_FRAME - in the handshake"}
		case got == connectionCloseOK:
			return nil, errOver
		case got == connectionClose:
			c.append(newCall(connectionCloseOK))
			return nil, errOver
		case got != m:
			return nil, &amqp.Error{Code: amqp.CommandInvalid, Reason: fmt.Sprintf("COMMAND_INVALID - method %#x, expected %#x", got, m)}
		}
		return a, nil
	}
}

// logIn refuses as RabbitMQ does: with a reason where the client can take one, else by hanging up.
func (c *conn) logIn(a *args) error {
	can, _ := a.table()["capabilities"].(amqp.Table)
	c.blockable, _ = can["connection.blocked"].(bool)
	mechanism, response := a.shortstr(), a.longstr()
	if a.err != nil {
		return a.err
	}
	if c.admits(mechanism, response) {
		return nil
	}
	if wantsReason, _ := can["authentication_failure_close"].(bool); wantsReason {
		return &amqp.Error{Code: amqp.AccessRefused, Reason: "ACCESS_REFUSED - Login was refused using authentication mechanism " +
			mechanism + ". For details see the broker logfile."}
	}
	return errOver
}

func (c *conn) admits(mechanism, response string) bool {
	switch mechanism {
	case "PLAIN":
		parts := strings.Split(response, "\x00")
		return len(parts) == 3 && c.broker.admits(Login{parts[1], parts[2]})
	case "EXTERNAL":
		t, ok := c.socket.(*tls.Conn)
		if !ok || len(t.ConnectionState().PeerCertificates) == 0 {
			return false
		}
		c.broker.note(Login{User: t.ConnectionState().PeerCertificates[0].Subject.CommonName})
		return true
	}
	return false
}

func (c *conn) tune(a *args) error {
	_ = a.short() // channels
	if most := int(a.long()); most != 0 {
		c.frameMax = min(c.frameMax, most)
	}
	if seconds := a.short(); seconds > 0 {
		c.broker.running.Go(func() { c.heartbeats(time.Duration(seconds) * time.Second) })
	}
	return a.err
}

func (b *Broker) onlyVhost() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.vhost
}

// admits enters l, and tells whether it is the right one.
func (b *Broker) admits(l Login) bool {
	b.note(l)
	b.mu.Lock()
	defer b.mu.Unlock()
	return l == b.login
}

func (b *Broker) note(l Login) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logins = append(b.logins, l)
	b.tell()
}

// updated enters a secret that a client replaced.
func (b *Broker) updated(secret string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logins = append(b.logins, Login{b.login.User, secret})
	b.tell()
}

// happened wakes those in Await.
func (b *Broker) happened() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell()
}
