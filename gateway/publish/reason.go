package publish

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// awayError is why there is no connection to a broker, in the operator's words: the same cause has the same text each time,
// without the ephemeral ports that system calls tell of, so that a state is told once.
type awayError struct {
	broker  string // host:port
	reason  string
	there   bool // something is, and waiting does not mend it
	refused bool // it refuses our password, or seems to
	err     error
}

func (e *awayError) Error() string { return "broker " + e.broker + " " + e.reason }
func (e *awayError) Unwrap() error { return e.err }

// wire is what an attempt to connect met below AMQP.
type wire struct {
	failure error         // the socket's first, nil where it had none: the library takes any end of the handshake for a refusal
	asked   bool          // the last that passed was our password
	waited  time.Duration // for the broker, at most; 0 where the connection was made
}

// refused tells of how a wrong password looks where the connect timeout is short.
func (w wire) refused() bool { return w.asked && timedOut(w.failure) }

// silence tells of a broker that was waited for, coarsely: what is left of a time that is shared is never quite the same.
func (w wire) silence() string {
	switch {
	case w.waited == 0:
		return "does not answer"
	case w.waited < 100*time.Millisecond:
		return "did not answer within " + w.waited.Round(10*time.Millisecond).String()
	}
	return "did not answer within " + w.waited.Round(100*time.Millisecond).String()
}

// away explains err, which the client library gave.
func away(broker string, err error, on wire) *awayError {
	e := &awayError{broker: broker, err: err}
	e.reason, e.there = explain(err, on)
	told, byName := errors.AsType[*amqp.Error](err)
	e.refused = on.refused() || byName && told.Code == amqp.AccessRefused
	return e
}

// refused tells whether one of the brokers that err is of refuses our password, or seems to.
func refused(err error) bool {
	if each, several := errors.AsType[brokerErrors](err); several {
		return slices.ContainsFunc(each, refused)
	}
	e, ok := errors.AsType[*awayError](err)
	return ok && e.refused
}

func explain(err error, on wire) (reason string, there bool) {
	onWire := on.failure
	var told *amqp.Error
	byName := errors.As(err, &told)
	if reason := tlsReason(err); reason != "" {
		return reason, true
	}
	switch {
	case errors.Is(onWire, context.Canceled):
		return "was not waited for", false
	case on.refused():
		return on.silence() + "; RabbitMQ takes as long to refuse a password: check it, or raise amqp.connect_timeout", true
	case timedOut(onWire) && !dialing(err):
		return "takes the connection and " + on.silence(), true
	case errors.Is(err, amqp.ErrVhost):
		return "refuses the virtual host, or the user's access to it", true
	case byName && told.Code == amqp.AccessRefused:
		return "refuses the user or the password", true
	case byName && told.Code == amqp.NotAllowed:
		return "refuses the virtual host, or the user's access to it", true
	case byName && told.Server:
		return fmt.Sprintf("closed the connection: %d %s", told.Code, told.Reason), true
	case onWire == nil && byName && (told.Code == amqp.FrameError || told.Code == amqp.SyntaxError),
		onWire == nil && (errors.Is(err, net.ErrClosed) || errors.Is(err, amqp.ErrClosed)), // the library hung up, and we wrote
		errors.Is(err, amqp.ErrSyntax), errors.Is(err, amqp.ErrFrame), errors.Is(err, amqp.ErrUnexpectedFrame):
		if on.waited == 0 {
			return "sent what is not AMQP 0-9-1, and was hung up on", true
		}
		return "does not speak AMQP 0-9-1: is that its port, without TLS?", true
	case errors.Is(onWire, io.EOF), errors.Is(err, io.EOF), hungUp(onWire):
		return "closed the connection", false
	case timedOut(onWire), onWire == nil && timedOut(err):
		return on.silence(), false
	}
	return wireReason(cmp.Or(onWire, err)), false
}

// tlsReason is why the two ends do not trust one another, "" where that is not the reason.
func tlsReason(err error) string {
	var notTLS tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	alert := alertOf(err)
	switch {
	case errors.As(err, &notTLS):
		return "does not speak TLS: is that its port for amqps?"
	case errors.As(err, &untrusted):
		return "shows a certificate that is not trusted: " + untrusted.Err.Error()
	case alert == "certificate required":
		return "requires a certificate of ours, amqp.tls.cert_file, from an authority that it names"
	case strings.Contains(alert, "certificate"):
		return "refuses our certificate, amqp.tls.cert_file: " + alert
	case alert != "":
		return "refuses our side of TLS: " + alert
	}
	return ""
}

// wireReason is what a system call failed of.
func wireReason(err error) string {
	var errno syscall.Errno
	var name *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is not there: connection refused"
	case errors.As(err, &name) && name.IsNotFound:
		return "cannot be found: no such host"
	case errors.As(err, &name):
		return "cannot be found: the name server does not answer"
	case errors.As(err, &errno):
		return "is not to be reached: " + errno.Error()
	}
	return "is not to be reached: " + err.Error()
}

// dialing tells whether err is from before there was a connection.
func dialing(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func timedOut(err error) bool {
	var waited net.Error
	return errors.As(err, &waited) && waited.Timeout()
}
