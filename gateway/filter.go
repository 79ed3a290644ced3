package gateway

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes"

	"github.com/google/uuid"
)

// Filter says which spooled mail is meant: that of which everything holds. The zero Filter means all of it.
type Filter struct {
	ids       []string // prefixes of ids, in lower case
	listener  string
	exchange  *string // nil is any
	from, to  *routes.Pattern
	older     time.Duration
	failed    bool
	asWritten url.Values
}

// The keys of a Filter.
const (
	filterID        = "id"
	filterListener  = "listener"
	filterExchange  = "exchange"
	filterFrom      = "from"
	filterRecipient = "recipient"
	filterOlder     = "older"
	filterFailed    = "failed"
)

// ParseFilter reads what an operator wrote: id (the beginning of one; several: any of them holds), listener, exchange, from,
// recipient, older and failed. What is not among these is an error.
func ParseFilter(v url.Values) (*Filter, error) {
	f := &Filter{asWritten: v}
	for key, values := range v {
		if key != filterID && len(values) != 1 {
			return nil, fmt.Errorf("%s is given %d times", key, len(values))
		}
		if err := f.set(key, values); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return f, nil
}

func (f *Filter) set(key string, values []string) (err error) {
	value := values[0]
	switch key {
	case filterID:
		f.ids, err = idPrefixes(values)
	case filterListener:
		if f.listener = value; value == "" {
			err = errors.New("no listener has an empty name") // a variable of a script, not set: it must not mean all mail
		}
	case filterExchange:
		f.exchange = &value
	case filterFrom:
		f.from, err = pattern(value)
	case filterRecipient:
		f.to, err = pattern(value)
	case filterOlder:
		f.older, err = duration(value)
		if err == nil && f.older < 0 {
			err = fmt.Errorf("%s is in the future", value)
		}
	case filterFailed:
		f.failed, err = strconv.ParseBool(value)
	default:
		err = errors.New("nothing is known of it")
	}
	return err
}

// duration reads Go's durations, and days before or in place of one: 7d, 1d12h.
func duration(s string) (time.Duration, error) {
	const day, most = 24 * time.Hour, 36_500
	text, rest, ok := strings.Cut(s, "d")
	days, err := strconv.ParseUint(text, 10, 16)
	if !ok || err != nil || days > most {
		return time.ParseDuration(s)
	}
	if rest == "" {
		return time.Duration(days) * day, nil
	}
	more, err := time.ParseDuration(rest)
	return time.Duration(days)*day + more, err
}

func pattern(s string) (*routes.Pattern, error) {
	p, err := routes.ParsePattern(s)
	return &p, err
}

// idPrefixes reads what may begin an id.
func idPrefixes(values []string) ([]string, error) {
	prefixes := make([]string, len(values))
	for i, v := range values {
		prefixes[i] = strings.ToLower(v)
		if len(v) == 0 || len(v) > 36 || strings.Trim(prefixes[i], "0123456789abcdef-") != "" {
			return nil, fmt.Errorf("%q is no id of a spooled mail, nor what one begins with (like 3f2a91c0)", v)
		}
	}
	return prefixes, nil
}

// Values is the Filter as it was written.
func (f *Filter) Values() url.Values { return f.asWritten }

// Match tells whether f means e at the time now. What is not known of e is not what f asks for.
func (f *Filter) Match(e *spool.Entry, now time.Time) bool {
	return f.matchID(e.ID) &&
		(f.listener == "" || !e.NoHead && e.Listener == f.listener) &&
		(f.exchange == nil || !e.NoDestination && !e.NoHead && e.Exchange == *f.exchange) &&
		(f.older == 0 || now.Sub(e.SpooledAt) >= f.older) &&
		(!f.failed || e.Attempts > 0 || e.Waits != "") &&
		(f.from == nil || !e.NoEnvelope && f.from.Match(mail.Mailbox(e.Sender))) &&
		(f.to == nil || !e.NoEnvelope && slices.ContainsFunc(e.Recipients, func(r string) bool { return f.to.Match(mail.Mailbox(r)) }))
}

// matchID tells whether f means a mail of that id, as far as ids go.
func (f *Filter) matchID(id uuid.UUID) bool {
	if len(f.ids) == 0 {
		return true
	}
	text := id.String()
	return slices.ContainsFunc(f.ids, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}
