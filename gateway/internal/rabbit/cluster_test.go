package rabbit

import (
	"os"
	"testing"
	"time"
)

func TestSoak_a_cluster_keeps_what_its_quorum_queue_took_when_the_leader_is_killed(t *testing.T) {
	if os.Getenv("LSMTPD_SOAK") == "" {
		t.Skip("it takes long: make soak")
	}
	c := NewCluster(t, 3)
	q := Quorum(t, c.Nodes[0].URL())
	publish(t, q, "one")
	leader, err := c.Leader(t.Context(), q)
	must(t, err)
	must(t, leader.Kill())
	if n := len(c.Running()); n != 2 {
		t.Errorf("%d nodes run", n)
	}
	at := *q
	at.URL = c.Running()[0].URL()
	// A channel whose first publish finds no leader refuses whatever follows, for ever (3.10; not 4.0): each try has its own.
	eventually(t, "the others take what is published", func() bool {
		ok, err := send(t, at.channel(t), &at, "two").WaitContext(t.Context())
		must(t, err)
		return ok
	})
	next, err := c.Leader(t.Context(), q)
	must(t, err)
	if next == leader {
		t.Error("a killed node leads")
	}
	must(t, leader.Start(t.Context()))
	for i, d := range Drain(t, q, 2, 30*time.Second) {
		if want := []string{"one", "two"}[i]; string(d.Body) != want {
			t.Errorf("message %d is %q, want %q", i, d.Body, want)
		}
	}
}
