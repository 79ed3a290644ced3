package publish

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/logtest"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestARefusedTopicIsItsDestinationsAloneUntilAProbeIsTaken(t *testing.T) {
	leavesNothing(t)
	b := amqptest.Start(t)
	b.Topics("shared", regexp.MustCompile("^good"))
	p := start(t, settings(b.URL()), "shared", "x")
	b.Script(hold)
	others := submitAll(t.Context(), p, windowful, "x")
	others = append(others, submit(t.Context(), p, delivery("shared", "good")))
	arrived(t, b, others...)
	b.Script((*amqptest.Publish).Ack)
	submit(t.Context(), p, delivery("shared", "bad")).want(t, Returned, InDoubt)
	for _, w := range others {
		w.want(t, Confirmed)
	}
	channels := b.Channels()
	for range 10 {
		r := submit(t.Context(), p, delivery("shared", "bad")).want(t, Returned)
		if !strings.Contains(r.Err.Error(), "'bad'") {
			t.Errorf("the reason is %v", r.Err)
		}
		submit(t.Context(), p, from("good", delivery("shared", "good"))).want(t, Confirmed)
	}
	if p.Unusable("shared") || b.Channels() != channels {
		t.Errorf("in quarantine: %v; %d channels more", p.Unusable("shared"), b.Channels()-channels)
	}
	bad := destination{"shared", "bad"}
	if s := p.Status().Refused; len(s) != 1 || s[0].Exchange != bad.exchange || s[0].RoutingKey != bad.key || s[0].Error == "" {
		t.Errorf("the status tells of %+v", s)
	}
	p.refusals.probeNow(bad)
	submit(t.Context(), p, delivery("shared", "bad")).want(t, Returned, InDoubt)
	submit(t.Context(), p, delivery("shared", "bad")).want(t, Returned)
	if pause := p.refusals.at[bad].pause; pause != 2*probeSoonest {
		t.Errorf("the next probe comes after %v", pause)
	}
	b.Topics("shared", nil)
	p.refusals.probeNow(bad)
	for range 2 {
		submit(t.Context(), p, delivery("shared", "bad")).want(t, Confirmed)
	}
}

func TestWhoHasAnotherRefusedKeyForEachMailClosesTheLiveChannelOnce(t *testing.T) {
	b := amqptest.Start(t)
	b.Topics("shared", regexp.MustCompile("^good"))
	p := start(t, settings(b.URL()), "shared")
	for i := range 50 {
		submit(t.Context(), p, from("evil", delivery("shared", fmt.Sprint("bad.", i)))).want(t, Returned, InDoubt)
		submit(t.Context(), p, from("good", delivery("shared", "good"))).want(t, Confirmed)
	}
	channels := map[int]bool{}
	for _, m := range b.Published() {
		channels[m.Channel] = true
	}
	if len(channels) != 1 { // the first was closed before any good mail
		t.Errorf("the good mail went by %d channels", len(channels))
	}
	if p.Unusable("shared") {
		t.Error("the exchange is in quarantine")
	}
}

func TestAReplayedMailWithARefusedTopicDoesNotShutItsExchange(t *testing.T) {
	b := amqptest.Start(t)
	b.Topics("shared", regexp.MustCompile("^good"))
	p := start(t, settings(b.URL()), "shared")
	for range 3 {
		submit(t.Context(), p, replayed("shared", "bad")).want(t, Returned, InDoubt)
		submit(t.Context(), p, replayed("shared", "good")).want(t, Confirmed)
	}
	if p.Unusable("shared") {
		t.Error("the exchange is in quarantine")
	}
}

func TestAForbiddenExchangeIsUsableAgainWhereOnlyTheKeyOfTheProbeIsRefused(t *testing.T) {
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "shared")
	b.Exchange("shared", amqptest.Forbidden)
	submit(t.Context(), p, delivery("shared", "good")).want(t, Returned, InDoubt)
	submit(t.Context(), p, delivery("shared", "good")).want(t, Returned)
	b.Topics("shared", regexp.MustCompile("^good"))
	b.Exchange("shared", amqptest.Usable)
	p.exchanges.probeNow()
	verify(t, p, "shared")
	submit(t.Context(), p, delivery("shared", "good")).want(t, Confirmed)
}

func TestARefusedKeyThatTheReasonDoesNotTellFromAnotherIsFoundAndRemembered(t *testing.T) {
	leavesNothing(t)
	long := strings.Repeat("k", 254)
	b := amqptest.Start(t)
	b.Topics("shared", regexp.MustCompile("g$"))
	p := start(t, settings(b.URL()), "shared")
	b.Script(hold)
	good := submit(t.Context(), p, from("good", delivery("shared", long+"g")))
	arrived(t, b, good)
	b.Script((*amqptest.Publish).Ack)
	submit(t.Context(), p, delivery("shared", long+"b")).want(t, Returned, InDoubt)
	good.want(t, Confirmed)
	channels := b.Channels()
	for range 10 {
		submit(t.Context(), p, delivery("shared", long+"b")).want(t, Returned)
	}
	if b.Channels() != channels {
		t.Errorf("%d channels more", b.Channels()-channels)
	}
}

func TestAMissingExchangeWithALongNameIsInQuarantine(t *testing.T) {
	name := strings.Repeat("e", 255)
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), name, "x")
	b.Script(hold)
	other := submit(t.Context(), p, delivery("x", "k"))
	arrived(t, b, other)
	b.Script((*amqptest.Publish).Ack)
	b.Exchange(name, amqptest.Missing)
	submit(t.Context(), p, delivery(name, "k")).want(t, Returned, InDoubt)
	other.want(t, Confirmed)
	if !p.Unusable(name) {
		t.Error("it is not in quarantine")
	}
}

func TestWhatIsLargerThanTheBrokerOnceRefusedClosesNoMoreChannels(t *testing.T) {
	const most = 2000
	b := amqptest.Start(t)
	p := start(t, settings(b.URL()), "x")
	script := func(p *amqptest.Publish) {
		if len(p.Body) > most {
			p.CloseChannel(406, fmt.Sprintf("PRECONDITION_FAILED - message size %d is larger than configured max size %d", len(p.Body), most))
			return
		}
		p.Ack()
	}
	b.Script(script)
	submit(t.Context(), p, bulky("x", 3000)).want(t, Rejected, InDoubt)
	channels := b.Channels()
	for range 10 {
		r := submit(t.Context(), p, bulky("x", 2500)).want(t, Rejected)
		if !strings.Contains(r.Err.Error(), "at most 2000 octets") {
			t.Errorf("the reason is %v", r.Err)
		}
		submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
	}
	if b.Channels() != channels {
		t.Errorf("%d channels more", b.Channels()-channels)
	}
	b.Script((*amqptest.Publish).Ack)
	b.Reset()
	untilConfirmed(t, p, delivery("x", "k"))
	submit(t.Context(), p, bulky("x", 3000)).want(t, Confirmed)
}

func TestRefusedDestinationsAreForgottenTheOldestFirst(t *testing.T) {
	s := newRefusals(discard())
	for i := range maxRefusals + 1 {
		s.refused(destination{"x", fmt.Sprint(i)}, &amqp.Error{Code: amqp.AccessRefused, Reason: "ACCESS_REFUSED"})
	}
	if n := len(s.at); n != maxRefusals {
		t.Errorf("%d are known", n)
	}
	if s.shut(destination{"x", "0"}) != nil || s.shut(destination{"x", "1"}) == nil {
		t.Error("another one than the oldest is forgotten")
	}
}

func TestSendersAreWatchedForAWhileAndMakeRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRefusals(discard())
		one, more := sender{"one", "x"}, sender{"more", "x"}
		s.beware(one)
		for i := range maxRefusals {
			s.beware(sender{fmt.Sprint(i), "x"})
		}
		s.beware(more)
		if !s.wary(one) || s.wary(more) || len(s.senders) != maxRefusals {
			t.Errorf("%d are watched, the first %v, the last %v", len(s.senders), s.wary(one), s.wary(more))
		}
		time.Sleep(probeLatest + 1) // the bubble's
		s.beware(more)
		if s.wary(one) || !s.wary(more) || len(s.senders) != 1 {
			t.Errorf("later %d are watched, the first %v, the last %v", len(s.senders), s.wary(one), s.wary(more))
		}
	})
}

func TestKeysThatSendersChooseDoNotFloodTheLogNorTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		s := newRefusals(log.Logger())
		refuse := func(exchange string, n int) {
			for i := range n {
				s.refused(destination{exchange, fmt.Sprintf("key%03d", i)}, &amqp.Error{Code: amqp.AccessRefused, Reason: "ACCESS_REFUSED"})
			}
		}
		lines := func(part string) int { return strings.Count(log.String(), part) }
		refuse("loud", 300)
		refuse("quiet", 3)
		if loud, quiet := lines("exchange=loud"), lines("exchange=quiet"); loud != toldPerMinute || quiet != 3 {
			t.Errorf("%d and %d lines", loud, quiet)
		}
		time.Sleep(time.Minute + 1) // the bubble's
		synctest.Wait()
		if lines(`not logged one by one" exchange=loud count=295`) != 1 || lines("not logged one by one") != 1 {
			t.Errorf("no count of the rest in\n%s", log.String())
		}
		some, more := s.status()
		if len(some) != 13 || some[0].RoutingKey != "key000" || some[9].RoutingKey != "key009" || some[10].Exchange != "quiet" || len(more) != 1 || more["loud"] != 290 {
			t.Errorf("status lists %d, and %v more", len(some), more)
		}
		for i := range 300 {
			s.answered(destination{"loud", fmt.Sprintf("key%03d", i)})
		}
		if n := lines("destination taken again"); n != toldPerMinute {
			t.Errorf("%d lines of those that are taken again", n)
		}
		refuse("loud", 7)
		s.summarise() // the end of the publisher
		if lines("count=2\n") != 1 || s.minute != nil {
			t.Errorf("the last count is missing in\n%s", log.String())
		}
	})
}
