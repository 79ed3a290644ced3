package publish

import (
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"lsmtpd/gateway/mail"
)

const (
	missesToOpen = 3
	probeEach    = 30 * time.Second
	maxBreakers  = 4096 // destinations that are watched: a key may be made of what senders choose
)

// errBreaker is the outcome of mail for a destination whose breaker is open.
var errBreaker = errors.New("its destination has not confirmed lately: only a probe each 30 s is published")

// destination is what decides which queues a message goes to.
type destination struct{ exchange, key string }

func destinationOf(d *mail.Delivery) destination { return destination{d.Exchange, d.RoutingKey} }

// breakers know the destinations that do not confirm. After three misses in a row a destination's breaker opens: its mail is not
// published, but for a probe each 30 s. Any answer of the broker's closes it.
type breakers struct {
	log     *slog.Logger
	watched atomic.Int64 // how many there are: mostly none, and then nobody takes the lock

	// guarded by mu
	mu sync.Mutex
	at map[destination]*breaker
}

type breaker struct {
	misses int
	probe  time.Time // the next one's, where it is open
}

func (b *breaker) open() bool { return b.misses >= missesToOpen }

func newBreakers(log *slog.Logger) *breakers {
	return &breakers{log: log, at: map[destination]*breaker{}}
}

// fault tells why nothing is published to d: nil where it is. probe tells that this message is to find out.
func (s *breakers) fault(d destination) (probe bool, err error) {
	if s.watched.Load() == 0 {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.at[d]
	switch now := time.Now(); {
	case b == nil || !b.open():
		return false, nil
	case now.Before(b.probe):
		return false, errBreaker
	default:
		b.probe = now.Add(probeEach)
		return true, nil
	}
}

// shut tells whether nothing is published to d, but for probes.
func (s *breakers) shut(d destination) bool {
	if s.watched.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.at[d]
	return b != nil && b.open()
}

// missed notes that d did not confirm in time.
func (s *breakers) missed(d destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.at[d]
	if b == nil {
		if len(s.at) >= maxBreakers {
			maps.DeleteFunc(s.at, func(_ destination, b *breaker) bool { return !b.open() })
		}
		if len(s.at) >= maxBreakers {
			return
		}
		b = &breaker{}
		s.at[d] = b
		s.watched.Store(int64(len(s.at)))
	}
	if b.misses++; b.misses == missesToOpen {
		b.probe = time.Now().Add(probeEach)
		s.log.Warn("destination does not confirm: its mail is not published until a probe is confirmed",
			"exchange", d.exchange, "routing_key", d.key)
	}
}

// reprieve closes the breaker of d until it misses once.
func (s *breakers) reprieve(d destination) {
	if s.watched.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.at[d]; b != nil && b.open() {
		b.misses = missesToOpen - 1
	}
}

// answered notes that the broker said something of a message to d.
func (s *breakers) answered(d destination) {
	if s.watched.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.at[d]
	if b == nil {
		return
	}
	delete(s.at, d)
	s.watched.Store(int64(len(s.at)))
	if b.open() {
		s.log.Info("destination confirms again", "exchange", d.exchange, "routing_key", d.key)
	}
}

// forget closes every breaker: another connection may lead to a broker that works.
func (s *breakers) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.at)
	s.watched.Store(0)
}

// BreakerStatus is a destination that does not confirm.
type BreakerStatus struct {
	Exchange   string    `json:"exchange"`
	RoutingKey string    `json:"routing_key"`
	Probe      time.Time `json:"next_probe"`
}

// maxListed is how many of a kind a status lists.
const maxListed = 100

func (s *breakers) status() []BreakerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []BreakerStatus
	for d, b := range s.at {
		if b.open() && len(all) < maxListed {
			all = append(all, BreakerStatus{d.exchange, d.key, b.probe})
		}
	}
	return all
}
