package main

import (
	"errors"
	"fmt"
	"regexp"

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
