package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"

	"lsmtpd/routes"
	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// brokerOf is the amqp: part of the configuration at path, or the one URL where it is given.
func brokerOf(url, path string) (config.AMQP, error) {
	if url != "" {
		return config.AMQP{URLs: []string{url}, ConnectTimeout: connectTimeout}, nil
	}
	table, err := routes.Load(path)
	if err != nil {
		return config.AMQP{}, fmt.Errorf("the broker's URL is not to be had (--url gives it without a file):\n%w", err)
	}
	return table.Config.AMQP, nil
}

// dialBroker connects to the first node of c that answers. ctx bounds the attempt only. No error carries a URL's secrets.
func dialBroker(ctx context.Context, c config.AMQP) (conn *amqp.Connection, node string, err error) {
	var errs []error
	for _, url := range c.URLs {
		uri, err := amqp.ParseURI(url)
		if err != nil {
			// The parser's own message repeats the URL.
			errs = append(errs, errors.New("that is not an AMQP URL (like amqp://user:password@127.0.0.1:5672/)"))
			continue
		}
		node = net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
		conn, err = dialNode(ctx, c, url)
		if err == nil {
			return conn, node, nil
		}
		errs = append(errs, fmt.Errorf("broker %s: %w", node, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, "", errors.Join(errs...)
}

// dialNode connects to one node; the end of ctx cuts the handshake too.
func dialNode(ctx context.Context, c config.AMQP, url string) (*amqp.Connection, error) {
	var release func() bool
	settings := amqp.Config{
		Heartbeat:  c.Heartbeat,
		Properties: amqp.Table{"product": "lsmtpd", "version": programVersion(), "connection_name": "lsmtpd tail"},
		Dial: func(network, address string) (net.Conn, error) {
			dialer := net.Dialer{Timeout: c.ConnectTimeout}
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			release = context.AfterFunc(ctx, func() { conn.Close() })
			if c.ConnectTimeout > 0 {
				// The library lifts this deadline when the handshake is done.
				err = conn.SetDeadline(time.Now().Add(c.ConnectTimeout))
			}
			return conn, err
		},
	}
	if c.Username != "" {
		settings.SASL = []amqp.Authentication{&amqp.PlainAuth{Username: c.Username, Password: c.Password}}
	}
	conn, err := amqp.DialConfig(url, settings)
	if release != nil {
		release()
	}
	return conn, err
}

// kindInRefusal finds the type of an existing exchange in RabbitMQ's refusal to declare it as another.
var kindInRefusal = regexp.MustCompile(`inequivalent arg 'type' for exchange .* but current is '?([^']+)'?$`)

// exchangeKind returns the type of an existing exchange, and "" where the broker will not tell it. AMQP has no question
// for it, but a refusal that gives the answer. What is declared could never be somebody's: its argument makes it differ.
func exchangeKind(conn *amqp.Connection, exchange string) string {
	ch, err := conn.Channel()
	if err != nil {
		return ""
	}
	defer ch.Close()
	err = ch.ExchangeDeclare(exchange, amqp.ExchangeDirect, false, true, false, false, amqp.Table{"lsmtpd-probe": true})
	if err == nil {
		// It was deleted just now, and we made it: undo that.
		_ = ch.ExchangeDelete(exchange, true, false)
		return ""
	}
	var refused *amqp.Error
	if !errors.As(err, &refused) {
		return ""
	}
	if m := kindInRefusal.FindStringSubmatch(refused.Reason); m != nil {
		return m[1]
	}
	if refused.Code == amqp.PreconditionFailed {
		return amqp.ExchangeDirect // the type agreed, something else did not
	}
	return ""
}
