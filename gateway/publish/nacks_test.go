package publish

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
)

// withoutLeader is RabbitMQ 3.10's quorum queue "quorum": while it has no leader it refuses what comes, and for ever whatever comes by
// a channel whose first message for it came then.
func withoutLeader(leader *atomic.Bool) func(*amqptest.Publish) {
	reached := map[int]bool{} // by channel
	return func(m *amqptest.Publish) {
		if m.RoutingKey != "quorum" {
			m.Ack()
			return
		}
		if _, known := reached[m.Channel]; !known {
			reached[m.Channel] = leader.Load()
		}
		if reached[m.Channel] && leader.Load() {
			m.Ack()
		} else {
			m.Nack()
		}
	}
}

func TestALaneLeavesAChannelThatIsRefusedEverythingForADestination(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	var leader atomic.Bool
	b.Script(withoutLeader(&leader))
	for range nacksToMove {
		must(t, p, delivery("x", "quorum"), Rejected)
		must(t, p, delivery("x", "other"), Confirmed)
	}
	leader.Store(true)
	must(t, p, delivery("x", "quorum"), Confirmed)
	must(t, p, delivery("x", "other"), Confirmed)
	all := b.Published()
	first, last := all[0], all[len(all)-1]
	for _, m := range all[:len(all)-2] {
		if m.Channel != first.Channel {
			t.Errorf("message %d went by channel %d already", m.N, m.Channel)
		}
	}
	if last.Channel == first.Channel || last.Connection != first.Connection || b.Connections() != 1 {
		t.Errorf("the last went by channel %d of connection %d, the first by %d of %d", last.Channel, last.Connection, first.Channel, first.Connection)
	}
}

func TestAQueueThatOnceConfirmedAndIsFullCostsNoChannel(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	must(t, p, delivery("x", "full"), Confirmed)
	b.Script((*amqptest.Publish).Nack)
	for range 10 * nacksToMove {
		must(t, p, delivery("x", "full"), Rejected)
	}
	for _, m := range b.Published() {
		if first := b.Published()[0]; m.Channel != first.Channel {
			t.Fatalf("message %d went by channel %d, the first by %d", m.N, m.Channel, first.Channel)
		}
	}
}

func TestChannelsThatAreLeftInVainAreLeftEverMoreSeldom(t *testing.T) {
	var m moves
	full, late := destination{"x", "full"}, destination{"x", "late"}
	now := time.Now()
	left := 0
	for end := now.Add(time.Hour); now.Before(end); now = now.Add(time.Second) {
		if m.due(full, now) {
			left++
			m.moved([]destination{full}, now)
			if m.due(late, now.Add(moveSoonest-1)) {
				t.Error("two channels are left at once")
			}
		}
	}
	// After 0, 10, 30, 70, 150 and 310 s, and then each five minutes.
	if left != 16 {
		t.Errorf("%d channels were left within an hour", left)
	}
	if !m.due(late, now) || m.due(full, now) {
		t.Error("who was not tried waits for who was, or the other way round")
	}
	m.moved([]destination{late}, now)
	if now = now.Add(moveSoonest); !m.due(full, now) {
		t.Error("who was confirmed on the last channel waits still")
	}
}

func TestAChannelRemembersABoundedNumberOfDestinations(t *testing.T) {
	for name, note := range map[string]func(*nacks, destination){
		"confirmed": (*nacks).confirmed,
		"refused":   func(n *nacks, d destination) { n.refused(d); n.refused(d); n.refused(d) },
	} {
		n := &nacks{row: map[destination]int{}}
		for i := range 3 * maxAnswered {
			note(n, destination{"x", fmt.Sprint(i)})
			if len(n.row) > maxAnswered {
				t.Fatalf("%s: %d destinations", name, len(n.row))
			}
		}
		shut := 0
		for _, row := range n.row {
			if row >= nacksToMove {
				shut++
			}
		}
		if int(n.shut.Load()) != shut {
			t.Errorf("%s: %d are counted as refused everything, and %d are", name, n.shut.Load(), shut)
		}
		n.confirmed(destination{"x", fmt.Sprint(3*maxAnswered - 1)})
		if name == "refused" && int(n.shut.Load()) != shut-1 {
			t.Error("who is confirmed is still refused everything")
		}
	}
}
