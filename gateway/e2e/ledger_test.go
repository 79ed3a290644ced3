package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/daemon"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ledger holds what was sent against what arrived: the promise is that a mail that got its 250 does.
type ledger struct {
	loads int // begun, by the test's own goroutine

	mu       sync.Mutex // guards what follows
	mails    map[string]*entry
	accepted int
	missing  int           // accepted and not arrived
	more     chan struct{} // closed, and replaced, with each that is accepted
	faults   []string
}

// entry is one mail.
type entry struct {
	queue   string // where it belongs
	sum     [sha256.Size]byte
	id      string // of the 250; "" while there is none
	arrived []string
}

func newLedger() *ledger {
	return &ledger{mails: map[string]*entry{}, more: make(chan struct{})}
}

// send enters a mail that is about to be sent.
func (l *ledger) send(key, queue, content string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &entry{queue: queue, sum: sha256.Sum256([]byte(content))}
	l.mails[key] = e
	return e
}

// accept enters the 250 that a mail got.
func (l *ledger) accept(e *entry, r smtptest.Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.id = queuedAs(r)
	l.accepted++
	if len(e.arrived) == 0 {
		l.missing++
	}
	close(l.more)
	l.more = make(chan struct{})
}

// await waits until n mails were accepted since the beginning.
func (l *ledger) await(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		accepted, more := l.accepted, l.more
		l.mu.Unlock()
		if accepted >= n {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("%d of %d mails were accepted within %v", accepted, n, patience)
		}
	}
}

// count is how many mails were accepted so far.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted
}

// arrive enters a message from a queue. It tells whether any mail is still missing.
func (l *ledger) arrive(queue string, d *amqp.Delivery) (missing bool) {
	mail, err := mailOf(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	content, received := withoutReceived(mail)
	key := ledgerKey(content)
	e := l.mails[key]
	switch {
	case err != nil:
		l.faults = append(l.faults, fmt.Sprintf("message %s: %v", d.MessageId, err))
	case e == nil:
		l.faults = append(l.faults, fmt.Sprintf("message %s was never sent: %.100q", d.MessageId, mail))
	case !received || sha256.Sum256([]byte(content)) != e.sum:
		l.faults = append(l.faults, fmt.Sprintf("mail %s arrived as other octets: %.100q", key, mail))
	case queue != e.queue:
		l.faults = append(l.faults, fmt.Sprintf("mail %s arrived in %s, not in %s", key, queue, e.queue))
	}
	if e != nil {
		if len(e.arrived) == 0 && e.id != "" {
			l.missing--
		}
		e.arrived = append(e.arrived, d.MessageId)
	}
	return l.missing > 0
}

// reckon takes what is in the queues until every mail that got its 250 has arrived; then it waits for the daemon to have nothing
// spooled, stops it, and takes the rest, which is duplicates. It fails t for whatever is lost, changed, foreign, or there twice
// under two message-ids, and returns how many arrived more than once.
func (l *ledger) reckon(t testing.TB, d *daemon.Daemon, queues ...*rabbit.Inbox) (duplicates int) {
	t.Helper()
	l.collect(t, queues)
	eventually(t, "the spool is empty", func() bool { return len(spooled(t, d)) == 0 })
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	l.sweep(t, queues)
	return l.judge(t)
}

// collect consumes the queues until nothing is missing.
func (l *ledger) collect(t testing.TB, queues []*rabbit.Inbox) {
	t.Helper()
	type arrival struct {
		queue string
		amqp.Delivery
	}
	arrivals := make(chan arrival)
	done := make(chan struct{})
	var consuming sync.WaitGroup
	conn, err := amqp.DialConfig(queues[0].URL, amqp.Config{Dial: amqp.DefaultDial(patience)})
	must(t, err)
	defer consuming.Wait()
	defer conn.Close() // what was delivered and not acknowledged goes back to its queue
	defer close(done)
	for _, q := range queues {
		ch, err := conn.Channel()
		must(t, err)
		must(t, ch.Qos(200, 0, false))
		incoming, err := ch.Consume(q.Name, "", false, false, false, false, nil)
		must(t, err)
		consuming.Go(func() {
			for d := range incoming {
				select {
				case arrivals <- arrival{q.Name, d}:
				case <-done:
				}
			}
		})
	}
	silence := time.NewTimer(patience)
	for missing := l.anyMissing(); missing; {
		select {
		case a := <-arrivals:
			missing = l.arrive(a.queue, &a.Delivery)
			must(t, a.Ack(false))
			silence.Reset(patience)
		case <-silence.C:
			t.Fatalf("lost, for nothing came any more for %v: %s", patience, l.lost())
		}
	}
}

// sweep takes what is left in the queues.
func (l *ledger) sweep(t testing.TB, queues []*rabbit.Inbox) {
	t.Helper()
	ch := channel(t, queues[0].URL)
	for _, q := range queues {
		for {
			d, ok, err := ch.Get(q.Name, true)
			must(t, err)
			if !ok {
				break
			}
			l.arrive(q.Name, &d)
		}
	}
}

// judge fails t for what the ledger shows, and counts duplicates.
func (l *ledger) judge(t testing.TB) (duplicates int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, fault := range l.faults {
		if i == 10 {
			t.Errorf("and %d more", len(l.faults)-i)
			break
		}
		t.Error(fault)
	}
	for key, e := range l.mails {
		if len(e.arrived) > 1 {
			duplicates++
		}
		ids := slices.Clone(e.arrived)
		if e.id != "" {
			ids = append(ids, e.id)
		}
		slices.Sort(ids)
		if len(slices.Compact(ids)) > 1 {
			t.Errorf("mail %s was accepted as %q and arrived as %q: a worker cannot tell that it is one", key, e.id, e.arrived)
		}
	}
	t.Logf("%d sent, %d accepted, %d arrived twice or more", len(l.mails), l.accepted, duplicates)
	return duplicates
}

func (l *ledger) anyMissing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing > 0
}

// lost describes some of what is missing.
func (l *ledger) lost() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	some := ""
	for _, key := range slices.Sorted(maps.Keys(l.mails)) {
		if e := l.mails[key]; e.id != "" && len(e.arrived) == 0 {
			some += fmt.Sprintf(" %s (%s)", key, e.id)
			if len(some) > 500 {
				break
			}
		}
	}
	return fmt.Sprintf("%d of %d mails:%s", l.missing, l.accepted, some)
}

// payload is what a worker reads of format json.
type payload struct {
	Timestamp    time.Time `json:"timestamp"`
	MessageID    string    `json:"message_id"`
	Helo         string    `json:"client_address"`
	Recipients   []string  `json:"recipients"`
	EmailContent string    `json:"email_content"`
	Sender       string    `json:"sender"`
	MailID       string    `json:"mail_id"`
	Listener     string    `json:"listener"`
	ClientIP     string    `json:"client_ip"`
	User         string    `json:"user"`
	TLS          string    `json:"tls"`
	Size         int64     `json:"size"`
	Encoding     string    `json:"encoding"`
}

// mailOf returns the mail that a message carries, in either format.
func mailOf(d *amqp.Delivery) (string, error) {
	switch d.ContentType {
	case "message/rfc822":
		return string(d.Body), nil
	case "application/json":
	default:
		return "", fmt.Errorf("content-type %q", d.ContentType)
	}
	var p payload
	if err := json.Unmarshal(d.Body, &p); err != nil {
		return "", err
	}
	if p.MessageID != d.MessageId {
		return "", fmt.Errorf("it calls itself %q in its payload", p.MessageID)
	}
	if p.Encoding == "" {
		return p.EmailContent, nil
	}
	octets, err := base64.StdEncoding.DecodeString(p.EmailContent)
	return string(octets), err
}
