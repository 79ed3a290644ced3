package gateway

import (
	"slices"
	"testing"

	"lsmtpd/gateway/publish"
	"lsmtpd/gateway/smtp"

	"pgregory.net/rapid"
)

const (
	ok   = publish.Confirmed
	back = publish.Returned
	nack = publish.Rejected
	hmm  = publish.InDoubt
	gone = publish.Unavailable
)

func results(outcomes ...publish.Outcome) []publish.Result {
	r := make([]publish.Result, len(outcomes))
	for i, o := range outcomes {
		r[i].Outcome = o
	}
	return r
}

func TestAMailsDeliveriesDecideItsReplyTogether(t *testing.T) {
	spool := policies{"spool", "spool"}
	reject := policies{"spool", "reject"}
	deferAll := policies{"defer", "defer"}
	mixed := policies{"defer", "reject"}
	for _, c := range []struct {
		name     string
		policies policies
		outcomes []publish.Outcome
		keep     []bool
		code     int // 0: 250 once kept
	}{
		{"all confirmed", reject, []publish.Outcome{ok, ok}, []bool{false, false}, 0},
		{"everything else is spooled by default", spool, []publish.Outcome{back, nack, hmm, gone}, []bool{true, true, true, true}, 0},
		{"one confirmed: a return is spooled in spite of reject", reject, []publish.Outcome{ok, back}, []bool{false, true}, 0},
		{"one confirmed: an outage is spooled in spite of defer", deferAll, []publish.Outcome{gone, ok}, []bool{true, false}, 0},
		{"unroutable alone is bounced by reject", reject, []publish.Outcome{back}, nil, 550},
		{"unroutable alone is put off by defer", deferAll, []publish.Outcome{back}, nil, 451},
		{"no broker is put off by defer", deferAll, []publish.Outcome{gone}, nil, 451},
		{"a nack is put off by defer", deferAll, []publish.Outcome{nack}, nil, 451},
		{"a passing reply wins over a bounce", mixed, []publish.Outcome{back, gone}, nil, 451},
		{"and in the other order", mixed, []publish.Outcome{gone, back}, nil, 451},
		{"unroutable all of it is bounced by reject", reject, []publish.Outcome{back, back}, nil, 550},
		{"a queue that is full is not bounced with what is unroutable", reject, []publish.Outcome{back, nack}, nil, 451},
		{"nor is what waits for the broker", reject, []publish.Outcome{gone, back}, nil, 451},
		{"what may have arrived is not bounced", reject, []publish.Outcome{hmm, back}, nil, 451},
	} {
		t.Run(c.name, func(t *testing.T) {
			keep, reply := decide(c.policies, results(c.outcomes...))
			if reply.Code != c.code || c.code == 0 && !slices.Equal(keep, c.keep) {
				t.Errorf("keep %v, reply %d; want %v, %d", keep, reply.Code, c.keep, c.code)
			}
		})
	}
}

func TestNothingIsEverBouncedButWhatIsUnroutable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		outcomes := rapid.SliceOfN(rapid.SampledFrom([]publish.Outcome{ok, back, nack, hmm, gone}), 1, 6).Draw(t, "outcomes")
		p := policies{
			rapid.SampledFrom([]string{"spool", "defer"}).Draw(t, "on_broker_failure"),
			rapid.SampledFrom([]string{"spool", "defer", "reject"}).Draw(t, "on_unroutable"),
		}
		keep, reply := decide(p, results(outcomes...))
		if reply.Code >= 500 && slices.ContainsFunc(outcomes, func(o publish.Outcome) bool { return o != back }) {
			t.Fatalf("%v: %d", outcomes, reply.Code)
		}
		if !reply.IsZero() && slices.Contains(outcomes, ok) {
			t.Fatalf("refused though a part is confirmed: %v", outcomes)
		}
		for i, o := range outcomes {
			if reply.IsZero() && keep[i] != (o != ok) {
				t.Fatalf("%v: keep %v", outcomes, keep)
			}
		}
	})
}

func TestTheGraverReplyIsTheOneThatPasses(t *testing.T) {
	if got := graver(replyUnroutable, replyFull); got != replyFull {
		t.Error(got)
	}
	if got := graver(replyFull, replyUnroutable); got != replyFull {
		t.Error(got)
	}
	if got := graver(smtp.Reply{}, replyUnroutable); got != replyUnroutable {
		t.Error(got)
	}
}
