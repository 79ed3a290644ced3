package e2e

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

// target is where a session's mail goes in, and where it must come out.
type target struct {
	addr  string
	queue *rabbit.Inbox
}

// load is many clients at once.
type load struct {
	targets  []target // the sessions take them in turn
	sessions int
	mails    int           // of each session; 0: until it is stopped
	pace     time.Duration // of each session: a mail in so long at most; 0 as fast as it is answered
	breaks   bool          // sessions may be cut or told 421, which ends them; otherwise whatever is not a 250 fails the test
}

// running is a load at work.
type running struct {
	stopped chan struct{}
	clients sync.WaitGroup
	once    sync.Once
}

// begin starts the clients. They end with their mails, by stop, or with the test.
func (l *ledger) begin(t testing.TB, w load) *running {
	r := &running{stopped: make(chan struct{})}
	l.loads++
	prefix := fmt.Sprintf("%d", l.loads)
	for n := range w.sessions {
		r.clients.Go(func() {
			to := w.targets[n%len(w.targets)]
			err := l.session(session{load: w, target: to, stopped: r.stopped, name: fmt.Sprintf("%s/%d", prefix, n), seed: uint64(n)})
			if err != nil {
				t.Errorf("session %d: %v", n, err)
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

// wait waits for the clients' end.
func (r *running) wait() { r.clients.Wait() }

// stop has each client end after its mail, and waits for that.
func (r *running) stop() {
	r.once.Do(func() { close(r.stopped) })
	r.wait()
}

// session is one client of a load.
type session struct {
	load
	target
	stopped <-chan struct{}
	name    string
	seed    uint64
}

// session delivers mail after mail on one connection.
func (l *ledger) session(s session) error {
	c, err := smtptest.Connect(s.addr)
	if err != nil {
		return s.forgive(err)
	}
	defer c.Close()
	if r, err := c.Hello(); err != nil || r.Code() != 250 {
		return s.forgive(fmt.Errorf("hello: %q, %v", r, err))
	}
	random := rand.New(rand.NewPCG(s.seed, 1))
	for i := 0; s.mails == 0 || i < s.mails; i++ {
		paced := time.After(s.pace)
		key := fmt.Sprintf("%s/%d", s.name, i)
		content := randomMail(random, key)
		e := l.send(key, s.queue.Name, content)
		r, err := c.Deliver("sender@client.example", []string{"someone@example.com"}, content)
		if err != nil || r.Code() != 250 {
			return s.forgive(fmt.Errorf("mail %d: %q, %v", i, r, err))
		}
		l.accept(e, r)
		select {
		case <-s.stopped:
			return nil
		case <-paced:
		}
	}
	return nil
}

// forgive is nil where a session may break.
func (s *session) forgive(err error) error {
	if s.breaks {
		return nil
	}
	return err
}
