package publish

import (
	"context"
	"errors"

	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Dial connects once to the first broker of c that answers, for a command: name is what the broker's operators see of it. The end of
// ctx cuts the attempt, not the connection. No error carries a secret.
func Dial(ctx context.Context, c *config.AMQP, name string) (conn *amqp.Connection, broker string, err error) {
	l, err := dialAny(ctx, c, name)
	if err != nil {
		return nil, "", err
	}
	return l.amqp, l.broker, nil
}

// dialAny is dial for each URL of c in turn. Its error tells of all.
func dialAny(ctx context.Context, c *config.AMQP, name string) (*link, error) {
	var errs []error
	for _, url := range c.URLs {
		l, err := dial(ctx, c, url, name, func(*link, string) {})
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}
