package publish

import (
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/routes/config"
)

// windowful is how many messages of others are unconfirmed when the channel closes.
const windowful = 100

func TestAnExchangeThatGoesUnderLoadIsIsolatedAndTheOthersAreAllConfirmed(t *testing.T) {
	leavesNothing(t)
	for name, state := range map[string]amqptest.State{"missing": amqptest.Missing, "forbidden": amqptest.Forbidden} {
		t.Run(name, func(t *testing.T) {
			b := amqptest.Start(t)
			p := start(t, settings(b.URL()), "x", "gone")
			b.Script(hold)
			others := submitAll(t.Context(), p, windowful, "x")
			arrived(t, b, others...)
			b.Script((*amqptest.Publish).Ack)
			b.Exchange("gone", state)
			culprits := submitAll(t.Context(), p, 3, "gone")
			for _, w := range others {
				w.want(t, Confirmed)
				if n := len(w.copies(b)); n != 2 {
					t.Errorf("%d copies of a message that was in doubt once", n)
				}
			}
			for _, w := range culprits {
				w.want(t, Returned, InDoubt) // in doubt is right where the channel closed under it
			}
			connections, messages := b.Attempts(), len(b.Published())
			r := submit(t.Context(), p, delivery("gone", "k")).want(t, Returned)
			if !strings.Contains(r.Err.Error(), "'gone'") {
				t.Errorf("the reason names nobody: %v", r.Err)
			}
			submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
			if n := len(b.Published()) - messages; n != 1 || b.Attempts() != connections || b.Connections() != connections {
				t.Errorf("%d more messages, %d of %d connections are open", n, b.Connections(), b.Attempts())
			}

			b.Exchange("gone", amqptest.Usable)
			p.exchanges.probeNow()
			verify(t, p, "gone")
			w := submit(t.Context(), p, delivery("gone", "k"))
			w.want(t, Confirmed)
			if own := w.copies(b); own[0].Connection != others[0].copies(b)[0].Connection {
				t.Error("what works again does not go by the live lane")
			}
		})
	}
}

func TestTheCulpritOfAChannelThatClosesWithoutANameIsFoundAndTheOthersAreAllConfirmed(t *testing.T) {
	leavesNothing(t)
	const reason = "PRECONDITION_FAILED - message size 17 is larger than configured max size 16"
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	b.Script(hold)
	others := submitAll(t.Context(), p, windowful, "x")
	arrived(t, b, others...)
	b.Script(func(p *amqptest.Publish) {
		if p.RoutingKey == "culprit" {
			p.CloseChannel(406, reason)
		} else {
			p.Ack()
		}
	})
	culprit := submit(t.Context(), p, delivery("x", "culprit"))
	more := submitAll(t.Context(), p, windowful, "x")
	r := culprit.want(t, Rejected, InDoubt)
	if !strings.Contains(r.Err.Error(), reason) {
		t.Errorf("the reason is %v", r.Err)
	}
	for _, w := range append(others, more...) {
		w.want(t, Confirmed)
		if n := len(w.copies(b)); n > 1+maxRepublish {
			t.Errorf("%d copies of one message", n)
		}
	}
	if n := len(culprit.copies(b)); n > 1+maxRepublish {
		t.Errorf("the culprit was published %d times", n)
	}
	if b.Connections() != b.Attempts() {
		t.Errorf("%d of %d connections are open", b.Connections(), b.Attempts())
	}
	closed := b.Channels()
	for range 10 {
		submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
	}
	if b.Channels() != closed {
		t.Error("channels close though the culprit is gone")
	}
}

func TestAMessageForWhichEveryChannelClosesIsGivenUpAsInDoubt(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	b.Script(func(p *amqptest.Publish) { p.CloseChannel(405, "RESOURCE_LOCKED - for no message's sake") })
	w := submit(t.Context(), p, delivery("x", "k"))
	w.want(t, InDoubt)
	if n := len(w.copies(b)); n != 1+maxRepublish {
		t.Errorf("published %d times, want %d", n, 1+maxRepublish)
	}
	b.Script((*amqptest.Publish).Ack)
	submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
}

func TestTheTopologyIsDeclaredAtEachConnectionAndWhatIsOtherwiseThereIsTold(t *testing.T) {
	b := amqptest.Start(t)
	b.Exchange("other", amqptest.Inequivalent)
	c := settings(b.URL())
	c.Topology.Exchanges = []config.Exchange{{Name: "other", Type: "topic", Durable: true}, {Name: "x", Type: "topic", Durable: true}}
	p := start(t, c, "x", "other")
	submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
	if faults := p.Status().Topology; len(faults) != 1 || !strings.Contains(faults[0], "'other'") {
		t.Errorf("told of the topology: %q", faults)
	}
	declared := func() (n int) {
		for _, d := range b.Declared() {
			if d == "exchange x" {
				n++
			}
		}
		return n
	}
	if n := declared(); n != 1 {
		t.Errorf("x is declared %d times", n)
	}
	b.Reset()
	b.Await("x is declared again", func() bool { return declared() == 2 })
}
