package publish

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lsmtpd/routes/config"

	amqp "github.com/rabbitmq/amqp091-go"
)

// surveyPatience is how long a reload, and a new connection before it takes mail, wait for the broker's answers.
const surveyPatience = time.Second

// scratch is a channel of a link's for what the broker may answer by closing it: the next question opens another.
type scratch struct {
	link *link
	ch   *amqp.Channel
}

func (s *scratch) channel() (*amqp.Channel, error) {
	if s.ch != nil && !s.ch.IsClosed() {
		return s.ch, nil
	}
	var err error
	s.ch, err = s.link.amqp.Channel()
	return s.ch, err
}

func (s *scratch) close() {
	if s.ch != nil {
		s.ch.Close()
	}
}

// question asks for one exchange: after amqp.AccessRefused whether we may write to it, else whether it exists.
type question struct {
	exchange string
	code     int // why it is in quarantine; 0 where it is not
}

// answer is what the broker says to a question: nil, or a refusal.
type answer struct {
	question
	err error
}

// ask returns nil where the answer is yes. A passive declare tells whether an exchange exists; whether we may write to it, only a
// publish does. That one is an error line in the broker's log each time, so that it is used only after a refusal.
func (s *scratch) ask(q question) error {
	if q.code == amqp.AccessRefused {
		return s.writable(q.exchange)
	}
	if q.exchange == "" {
		return nil // always there
	}
	ch, err := s.channel()
	if err != nil {
		return err
	}
	return exists(ch, q.exchange, false)
}

// exists asks on ch for one exchange. With noWait the broker says nothing where it exists.
func exists(ch *amqp.Channel, exchange string, noWait bool) error {
	return ch.ExchangeDeclarePassive(exchange, amqp.ExchangeDirect, false, false, false, noWait, nil)
}

// allThere tells whether all questions are for whether exchanges exist, and the answer to each is yes. It costs one round trip: the
// broker is silent about those that exist, but for the last, and closes the channel for the first that does not.
func (s *scratch) allThere(questions []question) bool {
	names := make([]string, 0, len(questions))
	for _, q := range questions {
		switch {
		case q.code == amqp.AccessRefused:
			return false
		case q.exchange != "":
			names = append(names, q.exchange)
		}
	}
	ch, err := s.channel() // one and the same for all: another would know nothing of a refusal
	for i := 0; i < len(names) && err == nil; i++ {
		err = exists(ch, names[i], i < len(names)-1)
	}
	return err == nil
}

const probeKey = "lsmtpd.probe"

// writable returns nil where mail could be written to the exchange, whatever its topic permissions say of one key: the broker asks for
// those last.
func (s *scratch) writable(exchange string) error {
	err := s.write(exchange, nil)
	probe := culprit{blames: itsMail, destination: destination{exchange, probeKey}}
	if refusal, refused := errors.AsType[*amqp.Error](err); refused && probe.namedBy(refusal.Reason) {
		return nil
	}
	return err
}

// queue returns nil where the queue exists.
func (s *scratch) queue(name string) error {
	ch, err := s.channel()
	if err != nil {
		return err
	}
	_, err = ch.QueueDeclarePassive(name, false, false, false, false, nil)
	return err
}

// write tells whether the broker would take body for the exchange, and routes nothing: the expiration is invalid, which it sees
// after all else.
func (s *scratch) write(exchange string, body []byte) error {
	ch, err := s.channel()
	if err != nil {
		return err
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.Publish(exchange, probeKey, false, false, amqp.Publishing{Expiration: "invalid", Body: body}); err != nil {
		return err
	}
	switch refusal := <-closed; {
	case refusal == nil:
		return amqp.ErrClosed
	case refusal.Code == amqp.PreconditionFailed && strings.Contains(refusal.Reason, "expiration"):
		return nil
	default:
		return refusal
	}
}

// askedAtOnce is how many questions are put in one go: where the answer to one of them is no, each is asked alone.
const askedAtOnce = 32

// ask puts questions, and tells each answer, until tell says that it is enough or the link breaks. It leaves a channel open for the
// next time: on a busy broker, to open one takes longer than to ask.
func (l *link) ask(questions []question, tell func(answer) (more bool)) {
	s := scratch{link: l, ch: l.idle.Swap(nil)}
	defer func() {
		s.ch = l.idle.Swap(s.ch) // of another who asked meanwhile
		s.close()
	}()
	for some := range slices.Chunk(questions, askedAtOnce) {
		all := len(some) > 1 && s.allThere(some)
		for _, q := range some {
			var err error
			if !all {
				err = s.ask(q)
			}
			if l.broken() || !tell(answer{q, err}) {
				return
			}
		}
	}
}

// survey declares t, where that was not done on l, and returns what l's broker says to questions. What it does not answer within
// surveyPatience is left out; it goes on with the declarations.
func (p *Publisher) survey(l *link, t config.Topology, questions []question) map[string]answer {
	var mu sync.Mutex
	answers, over := map[string]answer{}, false
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.declare(l, t)
		l.ask(questions, func(a answer) bool {
			mu.Lock()
			defer mu.Unlock()
			answers[a.exchange] = a
			return !over
		})
	}()
	timer := time.NewTimer(surveyPatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	mu.Lock()
	defer mu.Unlock()
	over = true
	return maps.Clone(answers)
}

// errUndeclared is the fault of a topology that the broker has not answered all of yet.
var errUndeclared = errors.New("the topology is not declared yet")

// declare declares t, unless l had that before, and logs what the broker refuses of it.
func (p *Publisher) declare(l *link, t config.Topology) {
	if !l.undeclared(t) {
		return
	}
	l.noteFaults([]error{errUndeclared})
	faults := declare(l, t)
	l.noteFaults(faults)
	for _, fault := range faults {
		p.log.Warn("topology not as configured", "broker", l.broker, "error", fault)
	}
}
