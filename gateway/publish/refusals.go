package publish

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const maxRefusals = 4096 // destinations: a key may be made of what senders choose

// refusals know the destinations that the broker closes a channel for though it takes other mail for their exchange: topic permissions
// are for keys. Their mail is not published, but for a probe each 5 s to 5 min, until the broker answers one.
type refusals struct {
	log   *slog.Logger
	known atomic.Int64 // how many there are: mostly none, and then nobody takes the lock

	// guarded by mu
	mu      sync.Mutex
	at      map[destination]*refusal
	told    map[string]int       // lines of this minute, and what would have been more, by exchange
	minute  *time.Timer          // ends it; nil before the first of its refusals
	senders map[sender]time.Time // whose mail had a destination refused, until when they are watched
}

// sender is a listener with mail for an exchange. Its next key may be refused too, where senders choose it: for some time all of it
// goes by a channel that may close without harm to others.
type sender struct{ listener, exchange string }

type refusal struct {
	err   error
	told  bool // in the log
	since time.Time
	pause time.Duration
	probe time.Time // the next one's
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, at: map[destination]*refusal{}, told: map[string]int{}, senders: map[sender]time.Time{}}
}

// fault tells why nothing is published to d: nil where it is. probe tells that this message is to find out.
func (s *refusals) fault(d destination) (probe bool, err error) {
	if s.known.Load() == 0 {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.at[d]
	switch now := time.Now(); {
	case r == nil:
		return false, nil
	case now.Before(r.probe):
		return false, r.err
	default:
		r.probe = now.Add(r.pause)
		return true, nil
	}
}

// shut tells why nothing is published to d but probes: nil where all is.
func (s *refusals) shut(d destination) error {
	if s.known.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.at[d]; r != nil {
		return r.err
	}
	return nil
}

// refused notes that the broker closed a channel for mail to d. Where there are too many, the oldest is forgotten.
func (s *refusals) refused(d destination, reason *amqp.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	r := s.at[d]
	if r == nil {
		if len(s.at) >= maxRefusals {
			s.forgetOldest()
		}
		r = &refusal{since: now, told: s.admit(d.exchange)}
		s.at[d] = r
		s.count()
		if r.told {
			s.log.Warn("destination refused: its mail is not published until a probe is taken",
				"exchange", d.exchange, "routing_key", d.key, "error", reason.Reason)
		}
	}
	r.err = fmt.Errorf("exchange %q, routing key %q: %s", d.exchange, d.key, reason.Reason)
	r.pause = min(max(2*r.pause, probeSoonest), probeLatest)
	r.probe = now.Add(r.pause)
}

// probeNow makes the next message to d a probe, where d is known.
func (s *refusals) probeNow(d destination) {
	if s.known.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.at[d]; r != nil {
		r.probe = time.Time{}
	}
}

// toldPerMinute is how many refused keys of one exchange are logged a minute, where senders may choose ever new ones. The rest is
// counted, and the count logged.
const toldPerMinute = 5

// admit tells whether one more refusal may be logged now. The caller holds mu.
func (s *refusals) admit(exchange string) bool {
	if s.minute == nil {
		s.minute = time.AfterFunc(time.Minute, s.summarise)
	}
	s.told[exchange]++
	return s.told[exchange] <= toldPerMinute
}

// summarise ends a minute of the log, early where nobody is to refuse more.
func (s *refusals) summarise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, exchange := range slices.Sorted(maps.Keys(s.told)) {
		if more := s.told[exchange] - toldPerMinute; more > 0 {
			s.log.Warn("more destinations refused, not logged one by one", "exchange", exchange, "count", more)
		}
	}
	clear(s.told)
	if s.minute != nil {
		s.minute.Stop()
		s.minute = nil
	}
}

func (s *refusals) forgetOldest() {
	var oldest destination
	var since time.Time
	for d, r := range s.at {
		if since.IsZero() || r.since.Before(since) {
			oldest, since = d, r.since
		}
	}
	delete(s.at, oldest)
}

// answered notes that the broker said something of a message to d.
func (s *refusals) answered(d destination) {
	if s.known.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.at[d]
	if r == nil {
		return
	}
	delete(s.at, d)
	s.count()
	if !r.told {
		return
	}
	s.log.Info("destination taken again", "exchange", d.exchange, "routing_key", d.key)
}

// forget has everything published again: another connection may lead to a broker that takes it.
func (s *refusals) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.at)
	clear(s.senders)
	s.count()
}

// count notes whether anything is known. The caller holds mu.
func (s *refusals) count() { s.known.Store(int64(len(s.at) + len(s.senders))) }

// beware watches who for a while.
func (s *refusals) beware(who sender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if _, watched := s.senders[who]; !watched && len(s.senders) >= maxRefusals {
		maps.DeleteFunc(s.senders, func(_ sender, until time.Time) bool { return now.After(until) })
		if len(s.senders) >= maxRefusals {
			return
		}
	}
	s.senders[who] = now.Add(probeLatest)
	s.count()
}

// wary tells whether a channel may close for the next mail of who.
func (s *refusals) wary(who sender) bool {
	if s.known.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	until, watched := s.senders[who]
	if watched && time.Now().After(until) {
		delete(s.senders, who)
		s.count()
		return false
	}
	return watched
}

// RefusalStatus is a destination that the broker closes a channel for, though it takes other mail for the exchange.
type RefusalStatus struct {
	Exchange   string    `json:"exchange"`
	RoutingKey string    `json:"routing_key"`
	Error      string    `json:"error"`
	Probe      time.Time `json:"next_probe"`
}

// listedKeys is how many refused keys of one exchange a status lists.
const listedKeys = 10

// status returns some of the destinations, sorted, and how many more each exchange has.
func (s *refusals) status() (some []RefusalStatus, more map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byName := func(a, b destination) int {
		return cmp.Or(cmp.Compare(a.exchange, b.exchange), cmp.Compare(a.key, b.key))
	}
	more = map[string]int{}
	listed := 0
	for _, d := range slices.SortedFunc(maps.Keys(s.at), byName) {
		if len(some) == 0 || some[len(some)-1].Exchange != d.exchange {
			listed = 0
		}
		if listed == listedKeys || len(some) == maxListed {
			more[d.exchange]++
			continue
		}
		listed++
		some = append(some, RefusalStatus{d.exchange, d.key, s.at[d].err.Error(), s.at[d].probe})
	}
	return some, more
}
