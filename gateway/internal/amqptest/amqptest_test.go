package amqptest

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhat_is_published_arrives_as_it_was_sent_and_is_confirmed(t *testing.T) {
	b := Start(t)
	ch := channelOf(t, dial(t, b))
	sent := amqp.Publishing{
		Headers: amqp.Table{
			"text": "v", "long": int64(-7), "int": int32(7), "yes": true, "nothing": nil, "when": time.Unix(1700000000, 0),
			"list": []any{"a", "b"}, "inner": amqp.Table{"octets": []byte{0, 255}}, "price": amqp.Decimal{Scale: 2, Value: 314}, "float": 0.5,
		},
		ContentType: "message/rfc822", ContentEncoding: "8bit", DeliveryMode: amqp.Persistent, Priority: 3, CorrelationId: "c",
		ReplyTo: "r", Expiration: "60000", MessageId: "id", Timestamp: time.Unix(1700000001, 0), Type: "t", UserId: "guest", AppId: "a",
		Body: []byte(strings.Repeat("body ", 60_000)), // of several frames
	}
	dc, err := ch.PublishWithDeferredConfirm("x", "a.key", true, false, sent)
	must(t, err)
	confirmed(t, dc)
	got := b.AwaitPublished(1)[0]
	if got.Exchange != "x" || got.RoutingKey != "a.key" || !got.Mandatory || got.Tag != 1 || got.N != 1 || got.Connection != 1 || got.Channel != 1 {
		t.Errorf("it arrived as %+v", got)
	}
	if string(got.Body) != string(sent.Body) {
		t.Errorf("a body of %d octets arrived, of %d", len(got.Body), len(sent.Body))
	}
	got.Body, sent.Body = nil, nil
	if !equal(got.Publishing, sent) {
		t.Errorf("properties\n%+v\nwant\n%+v", got.Publishing, sent)
	}
}

func TestMessages_are_answered_late_in_any_order_and_several_at_once(t *testing.T) {
	b := Start(t)
	b.Script(func(*Publish) {})
	ch := channelOf(t, dial(t, b))
	var all []*amqp.DeferredConfirmation
	for range 6 {
		all = append(all, publish(t, ch, "x"))
	}
	p := b.AwaitPublished(6)
	for _, dc := range all {
		select {
		case <-dc.Done():
			t.Fatalf("message %d is answered", dc.DeliveryTag)
		default:
		}
	}
	p[5].Ack()
	confirmed(t, all[5])
	p[1].AckUpTo()
	confirmed(t, all[1])
	confirmed(t, all[0])
	p[2].Nack()
	refused(t, all[2])
	p[4].NackUpTo()
	refused(t, all[3])
	refused(t, all[4])
}

func TestA_returned_message_comes_back_whole_and_before_its_ack(t *testing.T) {
	b := Start(t)
	b.Script((*Publish).Unroutable)
	ch := channelOf(t, dial(t, b))
	returns := ch.NotifyReturn(make(chan amqp.Return, 1))
	body := strings.Repeat("x", 300_000)
	dc, err := ch.PublishWithDeferredConfirm("x", "k", true, false, amqp.Publishing{MessageId: "id", Body: []byte(body)})
	must(t, err)
	confirmed(t, dc)
	select {
	case r := <-returns:
		if r.ReplyCode != amqp.NoRoute || r.ReplyText != "NO_ROUTE" || r.MessageId != "id" || r.Exchange != "x" || r.RoutingKey != "k" || string(r.Body) != body {
			t.Errorf("returned %d %s %s, %d octets", r.ReplyCode, r.ReplyText, r.MessageId, len(r.Body))
		}
	default:
		t.Error("the ack is there and the return is not")
	}
}

func TestA_channel_closes_at_the_nth_message_and_what_comes_behind_is_dropped(t *testing.T) {
	b := Start(t)
	b.Script(func(p *Publish) {
		if p.N == 3 {
			p.CloseChannel(406, "PRECONDITION_FAILED - too large")
		}
	})
	conn := dial(t, b)
	ch := channelOf(t, conn)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	var all []*amqp.DeferredConfirmation
	for range 3 {
		all = append(all, publish(t, ch, "x"))
	}
	_, _ = ch.PublishWithDeferredConfirm("x", "k", true, false, amqp.Publishing{Body: []byte("behind")}) // or it is closed already
	if err := wait(t, closed); err.Code != 406 || !strings.Contains(err.Reason, "too large") {
		t.Errorf("closed by %v", err)
	}
	for _, dc := range all {
		refused(t, dc)
	}
	b.Script((*Publish).Ack)
	b.Published()[0].Ack() // nobody hears it
	confirmed(t, publish(t, channelOf(t, conn), "x"))
	if p := b.Published(); len(p) != 4 || p[3].Channel != 2 || p[3].Connection != 1 || b.Channels() != 2 || b.Connections() != 1 {
		t.Errorf("%d messages, %d channels, %d connections", len(p), b.Channels(), b.Connections())
	}
}

func TestA_connection_ends_at_a_message_as_the_script_wants_it(t *testing.T) {
	for name, tt := range map[string]struct {
		script func(*Publish)
		want   func(*amqp.Error) bool
	}{
		"closed with a reason": {
			func(p *Publish) { p.CloseConnection(541, "INTERNAL_ERROR") },
			func(err *amqp.Error) bool { return err.Code == 541 && err.Server && err.Reason == "INTERNAL_ERROR" },
		},
		"reset": {
			(*Publish).Reset,
			func(err *amqp.Error) bool { return strings.Contains(err.Reason, syscall.ECONNRESET.Error()) },
		},
		"half a frame and the end": {
			func(p *Publish) { p.HalfAck(); p.Ack(); p.channel.conn.finish() },
			func(err *amqp.Error) bool { return strings.Contains(err.Reason, io.ErrUnexpectedEOF.Error()) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := Start(t)
			b.Script(tt.script)
			conn := dial(t, b)
			closed := conn.NotifyClose(make(chan *amqp.Error, 1))
			refused(t, publish(t, channelOf(t, conn), "x"))
			if err := wait(t, closed); !tt.want(err) {
				t.Errorf("ended by %+v", err)
			}
			b.Await("the connection is gone", func() bool { return b.Connections() == 0 })
		})
	}
}

func TestHalf_an_ack_leaves_the_connection_open_and_mute(t *testing.T) {
	b := Start(t)
	b.Script(func(p *Publish) { p.HalfAck(); p.Ack() })
	conn := dialWith(t, b.URL(), amqp.Config{Heartbeat: 2 * time.Second})
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	dc := publish(t, channelOf(t, conn), "x")
	if err := wait(t, closed); !strings.Contains(err.Reason, "timeout") { // no heartbeat came
		t.Errorf("ended by %v", err)
	}
	refused(t, dc)
}

func TestAn_alarm_is_told_at_the_next_message_which_is_read_when_it_ends(t *testing.T) {
	b := Start(t)
	conn := dial(t, b)
	ch := channelOf(t, conn)
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 2))
	confirmed(t, publish(t, ch, "x"))
	b.Block("low on memory")
	b.Block("low on memory and disk")
	dc := publish(t, ch, "x")
	if told := wait(t, blocked); !told.Active || told.Reason != "low on memory and disk" {
		t.Errorf("told %+v", told)
	}
	if n := len(b.Published()); n != 1 {
		t.Errorf("%d messages were read", n)
	}
	b.Unblock()
	if told := wait(t, blocked); told.Active {
		t.Errorf("told %+v", told)
	}
	confirmed(t, dc)
}

func TestA_double_that_does_not_read_lets_a_write_get_stuck_and_goes_on_where_it_was(t *testing.T) {
	b := Start(t)
	var socket net.Conn
	conn := dialWith(t, b.URL(), amqp.Config{Dial: func(network, addr string) (c net.Conn, err error) {
		socket, err = net.Dial(network, addr)
		return socket, err
	}})
	ch := channelOf(t, conn)
	b.StopReading()
	dc := publish(t, ch, "x")
	confirmedOnce := dc.Done()
	b.ReadOn()
	<-confirmedOnce
	b.StopReading()
	must(t, socket.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	if err := ch.Publish("x", "k", true, false, amqp.Publishing{Body: make([]byte, 64<<20)}); err == nil {
		t.Error("64 MiB were written, and nobody reads")
	}
}

func TestA_frozen_double_says_nothing_to_old_and_new_and_loses_nothing(t *testing.T) {
	b := Start(t)
	ch := channelOf(t, dial(t, b))
	b.Freeze()
	dc := publish(t, ch, "x")
	if _, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: amqp.DefaultDial(100 * time.Millisecond)}); err == nil {
		t.Error("a frozen double took a connection")
	}
	select {
	case <-dc.Done():
		t.Error("a frozen double confirmed")
	default:
	}
	b.Await("the attempt is noticed", func() bool { return b.Attempts() == 2 })
	if n := b.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	b.Thaw()
	confirmed(t, dc)
}

func TestA_wrong_password_and_a_vhost_that_is_not_there_are_refused(t *testing.T) {
	b := Start(t)
	if _, err := amqp.Dial(strings.Replace(b.URL(), "guest@", "wrong@", 1)); !errors.Is(err, amqp.ErrCredentials) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := amqp.Dial(b.URL() + "nowhere"); !isCode(err, amqp.NotAllowed) {
		t.Errorf("a wrong vhost: %v", err)
	}
	b.Require(Login{"guest", "rotated"})
	b.Vhost("nowhere")
	conn, err := amqp.Dial(strings.Replace(b.URL(), "guest@", "rotated@", 1) + "nowhere")
	must(t, err)
	must(t, conn.UpdateSecret("again", "it is time"))
	must(t, conn.Close())
	want := []Login{{"guest", "wrong"}, {"guest", "guest"}, {"guest", "rotated"}, {"guest", "again"}}
	if got := b.Logins(); !slices.Equal(got, want) {
		t.Errorf("logins %v", got)
	}
}

func TestExchanges_answer_as_they_are_told(t *testing.T) {
	b := Start(t)
	conn := dial(t, b)
	b.Exchange("gone", Missing)
	b.Exchange("closed", Forbidden)
	b.Exchange("other", Inequivalent)
	b.Queue("q", Missing)
	for name, tt := range map[string]struct {
		do   func(*amqp.Channel) error
		code int // 0: it is well
		text string
	}{
		"a passive declare":            {func(ch *amqp.Channel) error { return passive(ch, "x") }, 0, ""},
		"of a missing one":             {func(ch *amqp.Channel) error { return passive(ch, "gone") }, 404, "no exchange 'gone' in vhost '/'"},
		"of a forbidden one":           {func(ch *amqp.Channel) error { return passive(ch, "closed") }, 0, ""},
		"a publish to a missing one":   {sending("gone", ""), 404, "no exchange 'gone' in vhost '/'"},
		"a publish to a forbidden one": {sending("closed", ""), 403, "access to exchange 'closed' in vhost '/' refused for user 'guest'"},
		"an invalid expiration":        {sending("x", "invalid"), 406, "invalid expiration 'invalid'"},
		"to a forbidden one":           {sending("closed", "invalid"), 403, "access to exchange 'closed'"},
		"a declare of a forbidden one": {func(ch *amqp.Channel) error { return declare(ch, "closed") }, 403, "access to exchange 'closed'"},
		"of one that is otherwise":     {func(ch *amqp.Channel) error { return declare(ch, "other") }, 406, "inequivalent arg"},
		"a passive declare of a gone queue": {func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive("q", true, false, false, false, nil)
			return err
		}, 404, "no queue 'q' in vhost '/'"},
	} {
		if err := tt.do(channelOf(t, conn)); tt.code == 0 && err != nil || tt.code != 0 && !isCode(err, tt.code) || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %d %q", name, err, tt.code, tt.text)
		}
	}
	if n := len(b.Published()); n != 0 {
		t.Errorf("%d messages arrived", n)
	}
}

func TestWhat_is_declared_is_there_and_told(t *testing.T) {
	b := Start(t)
	b.Exchange("x", Missing)
	ch := channelOf(t, dial(t, b))
	must(t, declare(ch, "x"))
	must(t, passive(ch, "x"))
	q, err := ch.QueueDeclare("q", true, false, false, false, nil)
	must(t, err)
	must(t, ch.QueueBind(q.Name, "k", "x", false, nil))
	must(t, ch.ExchangeBind("y", "#", "x", false, nil))
	confirmed(t, publish(t, ch, "x"))
	want := []string{"exchange x", "passive exchange x", "queue q", "bind queue q to x by k", "bind exchange y to x by #"}
	if got := b.Declared(); !slices.Equal(got, want) {
		t.Errorf("declared %q", got)
	}
}

func TestA_double_can_be_away_and_come_back_on_the_same_port(t *testing.T) {
	b := Start(t)
	conn := dial(t, b)
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	b.Refuse(true)
	if _, err := amqp.Dial(b.URL()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling gives %v, want refused", err)
	}
	confirmed(t, publish(t, channelOf(t, conn), "x"))
	b.CloseConnections(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
	if err := wait(t, closed); err.Code != 320 {
		t.Errorf("closed by %v", err)
	}
	b.Refuse(false)
	conn = dial(t, b)
	closed = conn.NotifyClose(make(chan *amqp.Error, 1))
	b.Reset()
	if err := wait(t, closed); !strings.Contains(err.Reason, syscall.ECONNRESET.Error()) {
		t.Errorf("ended by %v", err)
	}
	b.Await("nobody is there", func() bool { return b.Connections() == 0 })
}
