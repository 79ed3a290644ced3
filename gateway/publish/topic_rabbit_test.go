package publish

import (
	"strings"
	"testing"

	"lsmtpd/gateway/internal/rabbit"

	amqp "github.com/rabbitmq/amqp091-go"
)

// restricted starts a node whose user app may write to what exchanges matches, and on shared to keys that begin with good.
func restricted(t *testing.T, exchanges string, config ...string) (url string, root *amqp.Channel) {
	t.Helper()
	n := rabbit.New(t, rabbit.Options{Config: config})
	for _, args := range [][]string{
		{"add_user", "app", "app"},
		{"set_permissions", "app", ".*", exchanges, ".*"},
		{"set_topic_permissions", "app", "shared", "^good", ".*"},
	} {
		if out, err := n.Ctl(t.Context(), args...); err != nil {
			t.Fatal(out, err)
		}
	}
	conn, err := amqp.Dial(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if root, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(n.URL(), "guest:guest", "app:app", 1), root
}

func TestRabbitMQNamesTheCulpritAsWeExpectAndTheOthersNoticeNothing(t *testing.T) {
	const internal, gone = "my default exchange", "gone"
	url, root := restricted(t, "^(shared|gone|ok|my default exchange|l*)$", "max_message_size = 100000")
	for _, e := range []struct {
		name, kind string
		internal   bool
	}{{"shared", "topic", false}, {"forbidden", "topic", false}, {internal, "topic", true}, {"ok", "fanout", false}} {
		if err := root.ExchangeDeclare(e.name, e.kind, false, false, e.internal, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("l", 250)
	p := start(t, settings(url), "shared", "ok")
	for _, c := range []struct {
		exchange, key string
		octets        int
		whole         bool // the exchange is in quarantine afterwards
	}{
		{"shared", "bad", 1, false},
		{"shared", "default exchange", 1, false},
		{"shared", "bad é", 1, false},
		{"shared", long, 1, false},
		{"forbidden", "k", 1, true},
		{internal, "k", 1, true},
		{gone, "k", 1, true},
		{long, "k", 1, true},
		{"", "default exchange", 1, true},
		{"ok", "k", 200_000, false},
	} {
		d := func() *pending {
			m := bulky(c.exchange, c.octets)
			m.RoutingKey = c.key
			return submit(t.Context(), p, m)
		}
		d().want(t, Returned, Rejected, InDoubt)
		r := d().want(t, Returned, Rejected)
		if p.Unusable(c.exchange) != c.whole {
			t.Errorf("%q by %.20q: in quarantine is %v: %v", c.exchange, c.key, !c.whole, r.Err)
		}
		submit(t.Context(), p, delivery("shared", "good")).want(t, Returned) // it has no queue
	}
	for name := range p.Status().Exchanges {
		if name == "shared" || name == "ok" {
			t.Errorf("%s is in quarantine", name)
		}
	}
}
