package publish

import (
	"context"
	"fmt"
	"testing"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"

	"pgregory.net/rapid"
)

const patience = faultPatience

// queuedTicket is a ticket of listener's that carries octets.
func queuedTicket(listener, id string, octets int64) *Ticket {
	return &Ticket{
		id: id, octets: octets, content: memory.NewContent(nil, 1, nil), sent: make(chan sent, 1),
		lane: New(nil).live, delivery: &mail.Delivery{Envelope: &mail.Envelope{Listener: listener}},
	}
}

func TestAQueueIsFirstInFirstOutForEachListenerAndNobodyHasMoreThanItsShare(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 12).Draw(t, "limit")
		q := newQueue(limit)
		ended, end := context.WithCancel(context.Background())
		end()
		model := map[string][]*Ticket{}
		queued := func() int { return len(model["a"]) + len(model["b"]) + len(model["c"]) }
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name := rapid.SampledFrom(names).Draw(t, "listener")
				ticket := queuedTicket(name, "", rapid.Int64Range(0, 3*quantum).Draw(t, "octets"))
				own := len(model[name])
				want := own == 0 || queued() < limit && own < max(limit/4, 1)
				if in := q.put(ended, ticket); in != want {
					t.Fatalf("put %v with %d of its own and %d of %d in the queue", in, own, queued(), limit)
				}
				if want {
					model[name] = append(model[name], ticket)
				}
			},
			"give up": func(t *rapid.T) {
				name := rapid.SampledFrom(names).Draw(t, "listener")
				if len(model[name]) == 0 {
					t.Skip("empty")
				}
				model[name][rapid.IntRange(0, len(model[name])-1).Draw(t, "which")].turn.Store(turnGivenUp)
			},
			"take": func(t *rapid.T) {
				got := q.take(nil)
				if got == nil {
					for name, tickets := range model {
						for _, left := range tickets {
							if left.turn.Load() == turnWaiting {
								t.Fatalf("took nothing, and %s waits", name)
							}
						}
						model[name] = nil
					}
					return
				}
				name := got.listener()
				for model[name][0] != got {
					if model[name][0].turn.Load() == turnWaiting {
						t.Fatal("not the oldest of its listener")
					}
					model[name] = model[name][1:]
				}
				model[name] = model[name][1:]
				for _, other := range names { // what was passed over went with it
					for len(model[other]) > 0 && model[other][0].turn.Load() == turnGivenUp && len(q.tickets(other)) < len(model[other]) {
						model[other] = model[other][1:]
					}
				}
			},
		})
	})
}

// tickets are those of a listener's that are in the queue.
func (q *queue) tickets(listener string) []*Ticket {
	if b := q.backlogs[listener]; b != nil {
		return b.tickets
	}
	return nil
}

func TestListenersPublishTheSameOctetsHoweverMuchEachHasQueued(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue(1 << 20)
		sizes := map[string]int64{}
		for _, name := range []string{"a", "b", "c"} {
			sizes[name] = rapid.Int64Range(0, 4*quantum).Draw(t, name)
			for range 200 {
				q.put(context.Background(), queuedTicket(name, "", sizes[name]))
			}
		}
		published := map[string]int64{}
		for range 150 { // nobody's backlog is empty afterwards
			ticket := q.take(nil)
			published[ticket.listener()] += ticket.octets + messageCost
		}
		for a := range sizes {
			for b := range sizes {
				most := quantum + max(sizes[a], sizes[b]) + messageCost
				if published[a]-published[b] > most {
					t.Fatalf("published %v of messages of %v octets: more apart than %d", published, sizes, most)
				}
			}
		}
	})
}

func TestOneMessageOfAQuietListenerWaitsForOneTurnOfABusyOne(t *testing.T) {
	q := newQueue(10_000)
	for i := range 2_000 {
		q.put(t.Context(), queuedTicket("busy", fmt.Sprint(i), 2<<10))
	}
	q.take(nil)
	q.put(t.Context(), queuedTicket("quiet", "quiet", 2<<10))
	before := 0
	for q.take(nil).listener() == "busy" {
		before++
	}
	if most := 2 * quantum / (2<<10 + messageCost); before > most {
		t.Errorf("%d messages of the busy listener came before, want at most %d", before, most)
	}
}

func TestWhoWaitsForRoomIsLetInInOrder(t *testing.T) {
	q := newQueue(1)
	q.put(t.Context(), queuedTicket("a", "0", 1))
	in := make(chan string, 2)
	for _, id := range []string{"1", "2"} {
		waiting := q.len()
		go func() {
			q.put(t.Context(), queuedTicket("a", id, 1))
			in <- id
		}()
		until(t, patience, func() bool { return q.len() > waiting })
	}
	for _, want := range []string{"0", "1", "2"} {
		if got := q.take(nil); got == nil || got.id != want {
			t.Fatalf("took %v, want %s", got, want)
		}
	}
	<-in
	<-in
}

func TestAGrownQueueLetsWaitersIn(t *testing.T) {
	q := newQueue(1)
	q.put(t.Context(), queuedTicket("a", "0", 1))
	in := make(chan bool)
	go func() { in <- q.put(t.Context(), queuedTicket("a", "1", 1)) }()
	until(t, patience, func() bool { return q.len() == 2 })
	q.resize(8)
	if !<-in {
		t.Error("not let in")
	}
}

func TestWhatFindsNoRoomInTheWindowDoesNotStandInOthersWay(t *testing.T) {
	q := newQueue(10_000)
	w := newWindow(func() {})
	for range windowMessages {
		q.put(t.Context(), queuedTicket("stuck", "", 1))
	}
	held := 0
	for q.take(w) != nil {
		held++
	}
	if held != windowMessages/shareOf {
		t.Errorf("one listener holds %d places of the window", held)
	}
	q.put(t.Context(), queuedTicket("other", "", 1))
	if got := q.take(w); got == nil || got.listener() != "other" {
		t.Errorf("took %v", got)
	}
}

func TestAWindowKeepsSharesAndTakesAMessageOfWhoHasNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWindow(func() {})
		var in []*Ticket
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				name := rapid.StringMatching("[a-t]").Draw(t, "listener")
				ticket := queuedTicket(name, "", rapid.Int64Range(0, 20<<20).Draw(t, "octets"))
				own, all := w.listeners[name], w.all
				taken := w.take(ticket)
				switch {
				case taken && own.messages > 0 && (own.messages >= windowMessages/4 || own.octets+ticket.octets > windowOctets/4):
					t.Fatalf("%+v and %d octets are over a share", own, ticket.octets)
				case !taken && own.messages == 0:
					t.Fatalf("nothing of its own, %+v in all, and refused", all)
				}
				if taken {
					in = append(in, ticket)
				}
			},
			"give": func(t *rapid.T) {
				if len(in) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
				w.give(in[i])
				in = append(in[:i], in[i+1:]...)
			},
			"": func(t *rapid.T) {
				sum := load{}
				for _, own := range w.listeners {
					sum = load{sum.messages + own.messages, sum.octets + own.octets}
				}
				if sum != w.all || w.all.messages != len(in) {
					t.Fatalf("%+v in all, %+v of the listeners, %d taken", w.all, sum, len(in))
				}
			},
		})
	})
}

func TestManyListenersThatDoNotConfirmLeaveRoomInTheWindow(t *testing.T) {
	w := newWindow(func() {})
	for i := range 8 {
		for w.take(queuedTicket(fmt.Sprint(i), "", 1)) {
		}
	}
	if w.all.messages >= windowMessages {
		t.Errorf("eight stuck listeners hold all %d places", w.all.messages)
	}
	for range 2 {
		if !w.take(queuedTicket("good", "", 1)) {
			t.Error("no room for the ninth")
		}
	}
}

func TestAFewListenersWithLargeMailThatDoNotConfirmKeepNobodyOutOfTheWindow(t *testing.T) {
	const large = 15_500_000
	w := newWindow(func() {})
	for i := range 5 {
		for w.take(queuedTicket(fmt.Sprint(i), "", large)) {
		}
	}
	if w.all.octets < windowOctets {
		t.Fatalf("five stuck listeners hold only %d octets", w.all.octets)
	}
	if !w.take(queuedTicket("good", "", large)) {
		t.Error("no room for the first message of the sixth")
	}
	if w.take(queuedTicket("good", "", large)) {
		t.Error("room for two messages of the sixth")
	}
}
