package publish

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// The benchmarks compare two rates, or give a latency under load: figures of one run on one machine.

const (
	ordinary = 2 << 10 // octets of an ordinary mail here
	measured = 2 * time.Second
)

// sized is a delivery of so many octets.
func sized(listener, exchange string, octets int) *mail.Delivery {
	d := from(listener, delivery(exchange, "k"))
	d.Content.Release()
	d.Content = memory.NewContent(nil, octets, nil)
	copy(d.Content.Room(), strings.Repeat("x", octets))
	d.Content.Extend(octets)
	return d
}

// publishing has senders of a listener's publish, one message after the other, until stop is called. It counts those confirmed.
func publishing(b *testing.B, p *Publisher, senders int, make func() *mail.Delivery) (confirmed *atomic.Int64, stop func()) {
	confirmed = new(atomic.Int64)
	var running sync.WaitGroup
	var stopped atomic.Bool
	for range senders {
		running.Go(func() {
			for !stopped.Load() {
				d := make()
				if r := p.Submit(b.Context(), d).Wait(b.Context()); r.Outcome == Confirmed {
					confirmed.Add(1)
				}
				d.Content.Release()
			}
		})
	}
	return confirmed, func() { stopped.Store(true); running.Wait() }
}

// rate is how many a second n counts from now on.
func rate(n *atomic.Int64) float64 {
	begun, before := time.Now(), n.Load()
	<-time.After(measured)
	return float64(n.Load()-before) / time.Since(begun).Seconds()
}

// percentile99 is of the time that publishing n messages takes, one after the other.
func percentile99(b *testing.B, p *Publisher, n int, make func() *mail.Delivery) time.Duration {
	took := []time.Duration{}
	for range n {
		d, begun := make(), time.Now()
		if r := p.Submit(b.Context(), d).Wait(b.Context()); r.Outcome != Confirmed {
			b.Errorf("%v: %v", r.Outcome, r.Err)
		}
		took = append(took, time.Since(begun))
		d.Content.Release()
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

func BenchmarkPublish(b *testing.B) {
	broker := rabbit.Shared(b)
	inbox := rabbit.Queue(b, broker.URL())
	p := start(b, settings(broker.URL()), inbox.Name)
	for _, senders := range []int{1, 128} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			b.ReportAllocs()
			var running sync.WaitGroup
			turns := make(chan struct{}, b.N)
			for range b.N {
				turns <- struct{}{}
			}
			close(turns)
			for range senders {
				running.Go(func() {
					for range turns {
						d := delivery(inbox.Name, "k")
						if r := p.Submit(b.Context(), d).Wait(b.Context()); r.Outcome != Confirmed {
							b.Error(r.Outcome, r.Err)
						}
						d.Content.Release()
					}
				})
			}
			running.Wait()
		})
	}
}

// A bare publisher has the same bodies, properties and window.
func BenchmarkBeside_a_bare_publisher(b *testing.B) {
	broker := rabbit.Shared(b)
	const senders = windowMessages / shareOf
	for b.Loop() {
		inbox := rabbit.Queue(b, broker.URL())
		p := start(b, settings(broker.URL()), inbox.Name)
		ours, stop := publishing(b, p, senders, func() *mail.Delivery { return sized("a", inbox.Name, ordinary) })
		own := rate(ours)
		stop()
		bare, stop := barePublishing(b, broker.URL(), inbox.Name, senders)
		theirs := rate(bare)
		stop()
		b.ReportMetric(own, "ours/s")
		b.ReportMetric(theirs, "bare/s")
		b.ReportMetric(own/theirs, "ratio")
	}
}

// barePublishing is publishing with the client library alone: window goroutines on one channel.
func barePublishing(b *testing.B, url, exchange string, window int) (confirmed *atomic.Int64, stop func()) {
	conn, err := amqp.Dial(url)
	if err != nil {
		b.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		b.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		b.Fatal(err)
	}
	confirmed = new(atomic.Int64)
	var running sync.WaitGroup
	var stopped atomic.Bool
	for range window {
		running.Go(func() {
			for !stopped.Load() {
				d := sized("a", exchange, ordinary)
				dc, err := ch.PublishWithDeferredConfirm(exchange, "k", true, false, amqp.Publishing{
					Headers: amqp.Table(d.AMQPHeaders()), ContentType: d.ContentType(), DeliveryMode: amqp.Persistent,
					MessageId: d.ID.String(), Timestamp: d.Envelope.ReceivedAt, Type: mail.Type, AppId: mail.AppID, Body: d.Content.Octets(),
				})
				if err != nil {
					b.Error(err)
					return
				}
				if dc.Wait() {
					confirmed.Add(1)
				}
				d.Content.Release()
			}
		})
	}
	return confirmed, func() { stopped.Store(true); running.Wait(); conn.Close() }
}

func BenchmarkBeside_100_messages_a_second_to_a_missing_exchange(b *testing.B) {
	broker := rabbit.Shared(b)
	for b.Loop() {
		inbox := rabbit.Queue(b, broker.URL())
		p := start(b, settings(broker.URL()), inbox.Name)
		good, stop := publishing(b, p, 64, func() *mail.Delivery { return sized("good", inbox.Name, ordinary) })
		missing := "missing-" + uuid.NewString()
		alone, beside := 0.0, 0.0
		for range 3 { // in turn, because a machine has its moods
			alone += rate(good)
			tick := time.NewTicker(10 * time.Millisecond)
			_, end := publishing(b, p, 4, func() *mail.Delivery {
				<-tick.C
				return sized("bad", missing, ordinary)
			})
			beside += rate(good)
			end()
			tick.Stop()
		}
		stop()
		b.ReportMetric(alone/3, "alone/s")
		b.ReportMetric(beside/alone, "ratio")
	}
}

// From the close of the live channel, under a hundred messages of others, to the first publish on the next one; and until all are confirmed.
func BenchmarkRecovery_of_the_live_channel(b *testing.B) {
	var opened, confirmed time.Duration
	for b.Loop() {
		broker := amqptest.Start(b)
		p := start(b, settings(broker.URL()), "x", "gone")
		broker.Script(hold)
		var others sync.WaitGroup
		for range windowful {
			others.Go(func() { must(b, p, delivery("x", "k"), Confirmed) })
		}
		broker.AwaitPublished(windowful)
		var closed, next time.Time // guarded by the double until the others have ended
		broker.Script(func(m *amqptest.Publish) {
			if m.Exchange == "gone" {
				closed = time.Now()
				m.CloseChannel(amqp.NotFound, "NOT_FOUND - no exchange 'gone' in vhost '/'")
				return
			}
			if next.IsZero() {
				next = time.Now()
			}
			m.Ack()
		})
		p.Submit(b.Context(), delivery("gone", "k")).Wait(b.Context())
		others.Wait()
		opened, confirmed = opened+next.Sub(closed), confirmed+time.Since(closed)
	}
	b.ReportMetric(float64(opened.Microseconds())/1000/float64(b.N), "next-ms")
	b.ReportMetric(float64(confirmed.Microseconds())/1000/float64(b.N), "all-ms")
}

func BenchmarkSmall_mail_beside_50_MB_on_100_megabits(b *testing.B) {
	broker := rabbit.Shared(b)
	for b.Loop() {
		inbox := rabbit.Queue(b, broker.URL())
		proxy, err := faultnet.NewProxy(broker.Addr())
		if err != nil {
			b.Fatal(err)
		}
		p := start(b, settings("amqp://guest:guest@"+proxy.Addr()+"/"), inbox.Name)
		proxy.Slow(100_000_000 / 8)
		large, stop := publishing(b, p, 1, func() *mail.Delivery { return sized("large", inbox.Name, 50<<20) })
		until(b, patience, func() bool { return p.bulk.window.load().messages > 0 })
		p99 := percentile99(b, p, 1000, func() *mail.Delivery { return sized("small", inbox.Name, ordinary) })
		stop()
		b.ReportMetric(float64(p99.Microseconds())/1000, "p99-ms")
		b.ReportMetric(float64(large.Load()), "large")
		b.Cleanup(func() { proxy.Close() })
	}
}

func BenchmarkOne_session_beside_1000_of_another_listener(b *testing.B) {
	broker := rabbit.Shared(b)
	for b.Loop() {
		inbox, own := rabbit.Queue(b, broker.URL()), rabbit.Queue(b, broker.URL())
		p := start(b, settings(broker.URL()), inbox.Name, own.Name)
		busy, stop := publishing(b, p, 1000, func() *mail.Delivery { return sized("busy", inbox.Name, ordinary) })
		p99 := percentile99(b, p, 500, func() *mail.Delivery { return sized("single", own.Name, ordinary) })
		busyRate := rate(busy)
		stop()
		b.ReportMetric(float64(p99.Microseconds())/1000, "p99-ms")
		b.ReportMetric(busyRate, "busy/s")
	}
}
