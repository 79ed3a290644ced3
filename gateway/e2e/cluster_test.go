package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/rabbit"
)

func TestSoak_the_leader_of_a_quorum_queue_killed_under_load_and_then_a_second_node(t *testing.T) {
	soak(t)
	clusterKilled(t, 3)
}

// clusterKilled kills, again and again, the node that leads the queue, and then another: with it goes the quorum, so that what
// cannot be confirmed is spooled until the nodes are back.
func clusterKilled(t *testing.T, times int) {
	c := rabbit.NewCluster(t, 3)
	q := rabbit.Quorum(t, c.Nodes[0].URL())
	d := start(t, "", withAMQP(strings.Replace(config(listener("in", q.Name)), `["{{.AMQP}}"]`, quoted(c.URLs()), 1), "confirm_timeout: 5s"))
	l := newLedger()
	r := l.begin(t, load{targets: []target{{d.Addr(t, "in"), q}}, sessions: 20, pace: 50 * time.Millisecond})
	for range times {
		l.await(t, l.count()+500)
		leader, err := c.Leader(t.Context(), q)
		must(t, err)
		must(t, leader.Kill())
		l.await(t, l.count()+500)

		second := c.Running()[0]
		must(t, second.Kill())
		eventually(t, "what has no quorum is spooled", func() bool { return len(spooled(t, d)) > 0 })
		l.await(t, l.count()+100)

		must(t, second.Start(t.Context()))
		must(t, leader.Start(t.Context()))
	}
	l.await(t, l.count()+500)
	r.stop()
	l.reckon(t, d, q)
}

// quoted is a list of strings in YAML's braces' style.
func quoted(all []string) string {
	return "[" + strings.ReplaceAll(strings.Trim(fmt.Sprintf("%q", all), "[]"), " ", ", ") + "]"
}
