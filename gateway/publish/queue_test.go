package publish

import (
	"context"
	"testing"
	"time"

	"lsmtpd/gateway/memory"

	"pgregory.net/rapid"
)

const patience = 10 * time.Second

func waitingTicket(id string) *Ticket {
	return &Ticket{id: id, content: memory.NewContent(nil, 1, nil), sent: make(chan sent, 1)}
}

func TestAQueueIsFirstInFirstOutAndNeverOverItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 4).Draw(t, "limit")
		q := newQueue(limit)
		ended, end := context.WithCancel(context.Background())
		end()
		var model []*Ticket
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				ticket := waitingTicket("")
				in := q.put(ended, ticket)
				if in != (len(model) < limit) {
					t.Fatalf("put %v with %d of %d in the queue", in, len(model), limit)
				}
				if in {
					model = append(model, ticket)
				}
			},
			"take": func(t *rapid.T) {
				got := q.take()
				if len(model) == 0 {
					if got != nil {
						t.Fatal("took from an empty queue")
					}
					return
				}
				if got != model[0] {
					t.Fatal("not the oldest")
				}
				model = model[1:]
			},
			"give up": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "which")
				// It keeps its place until the taker meets it, so only the first can be told apart here.
				if i == 0 {
					model[0].turn.Store(turnGivenUp)
					model = model[1:]
					if got := q.take(); len(model) == 0 && got != nil || len(model) > 0 && got != model[0] {
						t.Fatal("a ticket that was given up was not passed over")
					}
					if len(model) > 0 {
						model = model[1:]
					}
				}
			},
		})
	})
}

func TestWhoWaitsForRoomIsLetInInOrder(t *testing.T) {
	q := newQueue(1)
	q.put(t.Context(), waitingTicket("0"))
	in := make(chan string, 2)
	for _, id := range []string{"1", "2"} {
		waiting := q.len()
		go func() {
			q.put(t.Context(), waitingTicket(id))
			in <- id
		}()
		until(t, patience, func() bool { return q.len() > waiting })
	}
	for _, want := range []string{"0", "1", "2"} {
		if got := q.take(); got == nil || got.id != want {
			t.Fatalf("took %v, want %s", got, want)
		}
	}
	<-in
	<-in
}

func TestAGrownQueueLetsWaitersIn(t *testing.T) {
	q := newQueue(1)
	q.put(t.Context(), waitingTicket("0"))
	in := make(chan bool)
	go func() { in <- q.put(t.Context(), waitingTicket("1")) }()
	until(t, patience, func() bool { return q.len() == 2 })
	q.resize(2)
	if !<-in {
		t.Error("not let in")
	}
}
