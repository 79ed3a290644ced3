package spool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		workUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// someDelivery returns a delivery of octets in format, with an id of its own.
func someDelivery(format string, octets []byte) *mail.Delivery {
	id := uuid.New()
	c := memory.NewContent(nil, len(octets), nil)
	c.Extend(copy(c.Room(), octets))
	return &mail.Delivery{
		ID: id,
		Envelope: &mail.Envelope{
			ID:         id,
			Listener:   "inbound",
			ReceivedAt: time.Now(),
			Helo:       "client.example",
			Sender:     address.Address{Local: "from", Domain: "example.org"},
			Size:       int64(len(octets)),
		},
		Recipients: []address.Address{{Local: "to", Domain: "example.org"}},
		Exchange:   "lsmtp",
		RoutingKey: "mail.<example>.org",
		Format:     format,
		Headers:    map[string]string{"tenant": "a"},
		Content:    c,
	}
}

// spoolDir returns a fresh directory that a Spool takes.
func spoolDir(t testing.TB) string { return filepath.Join(t.TempDir(), "spool") }

func mustOpen(t testing.TB, dir string) *Spool {
	t.Helper()
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// opened returns a Spool that is closed at the test's end.
func opened(t testing.TB, dir string) *Spool {
	t.Helper()
	s := mustOpen(t, dir)
	t.Cleanup(func() { mustClose(t, s) })
	return s
}

func mustPut(t testing.TB, s *Spool, d *mail.Delivery) {
	t.Helper()
	if err := s.Put(d); err != nil {
		t.Fatal(err)
	}
}

// putReady puts a delivery that waits for replay.
func putReady(t testing.TB, s *Spool, format, octets string) *mail.Delivery {
	t.Helper()
	d := someDelivery(format, []byte(octets))
	mustPut(t, s, d)
	s.Settle(d.ID, false)
	return d
}

// files returns the names in dir.
func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// seen is what a replay was given of one delivery.
type seen struct {
	id         uuid.UUID
	payload    string
	exchange   string
	routingKey string
	headers    string
	content    string
	spooledAt  time.Time
}

func (s seen) String() string {
	return fmt.Sprintf("%s to %q %q, %s, headers %s, spooled %v: %.300q", s.id, s.exchange, s.routingKey, s.content, s.headers, s.spooledAt, s.payload)
}

func see(d *mail.Delivery) seen {
	headers := d.AMQPHeaders()
	delete(headers, "lsmtpd-spooled")
	return seen{d.ID, string(d.AppendPayload(nil)), d.Exchange, d.RoutingKey, fmt.Sprint(headers), d.ContentType(), d.SpooledAt}
}

// replayed replays until n deliveries were tried, each answered Done, and returns them in their order.
func replayed(t testing.TB, s *Spool, n int) []seen {
	t.Helper()
	if n == 0 {
		return nil // no delivery would end it
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var all []seen
	err := s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		mu.Lock()
		defer mu.Unlock()
		if all = append(all, see(d)); len(all) == n {
			cancel()
		}
		return Done, nil
	})
	if err != context.Canceled || len(all) != n {
		t.Fatalf("replay ended with %v after %d of %d deliveries", err, len(all), n)
	}
	return all
}

// indexedNow waits until s has read its directory.
func indexedNow(s *Spool) { <-s.indexed }
