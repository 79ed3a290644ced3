package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"lsmtpd/routes/config"
)

// probeTimeout is how long a broker may take to say its first word.
const probeTimeout = 3 * time.Second

// broker is what a configuration expects, and what is there.
type broker struct {
	addr    string // host:port
	port    int
	answers bool   // a broker is there
	unfit   string // why a private node cannot stand in for it; "": it can
}

// findBroker returns the first of the configured brokers that answers, else the first that a private node can stand in for,
// else the first.
func findBroker(c *config.Config) broker {
	var all []broker
	for _, url := range c.AMQP.URLs {
		b := look(url, c.AMQP.Username)
		if b.answers {
			return b
		}
		all = append(all, b)
	}
	for _, b := range all {
		if b.unfit == "" {
			return b
		}
	}
	return all[0]
}

// look never prints the URL, which may carry a secret.
func look(url, username string) broker {
	u, err := amqp.ParseURI(url)
	if err != nil {
		return broker{unfit: "amqp.urls holds a URL that is not one of AMQP's"}
	}
	b := broker{addr: net.JoinHostPort(u.Host, fmt.Sprint(u.Port)), port: u.Port}
	if username == "" {
		username = u.Username
	}
	c, err := net.DialTimeout("tcp", b.addr, probeTimeout)
	switch {
	case err == nil:
		b.answers = u.Scheme == "amqps" || speaksAMQP(c)
		c.Close()
		if !b.answers {
			b.unfit = fmt.Sprintf("Something that does not speak AMQP holds %s", b.addr)
		}
	case !onLoopback(u.Host):
		b.unfit = fmt.Sprintf("Nothing answers at %s, and that is not this machine: %v", b.addr, err)
	case !errors.Is(err, syscall.ECONNREFUSED):
		b.unfit = fmt.Sprintf("Nothing answers at %s: %v", b.addr, err)
	case u.Scheme == "amqps":
		b.unfit = fmt.Sprintf("Nothing answers at %s, and a private node speaks no TLS", b.addr)
	case username != "guest" || u.Vhost != "/":
		b.unfit = fmt.Sprintf("Nothing answers at %s, and a private node knows only the user guest and the vhost /", b.addr)
	}
	return b
}

// speaksAMQP offers AMQP 0-9-1. A broker answers with a method frame (1), or with the header of the version it speaks ("AMQP").
func speaksAMQP(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(probeTimeout))
	if _, err := c.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	var first [1]byte
	_, err := c.Read(first[:])
	return err == nil && (first[0] == 1 || first[0] == 'A')
}

// onLoopback tells whether a node that listens on 127.0.0.1 is reached by host.
func onLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" }
