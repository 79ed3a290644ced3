package publish

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/rabbit"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestOfManyExchangesEachReloadTellsThoseThatRabbitMQDoesNotHaveJustNow(t *testing.T) {
	url := rabbit.Shared(t).URL()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	root, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 2*askedAtOnce+5)
	declare := func(i int) {
		t.Helper()
		if err := root.ExchangeDeclare(names[i], amqp.ExchangeFanout, false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(i int) {
		t.Helper()
		if err := root.ExchangeDelete(names[i], false, false); err != nil {
			t.Fatal(err)
		}
	}
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", t.Name(), i)
		declare(i)
	}
	p := start(t, settings(url), names...)
	for _, missing := range [][]int{nil, {0}, {askedAtOnce - 1}, {askedAtOnce}, {len(names) - 1}, {3, 4, askedAtOnce + 2, len(names) - 2}, nil} {
		var want []string
		for _, i := range missing {
			remove(i)
			want = append(want, fmt.Sprintf("exchange %q is unusable: NOT_FOUND - no exchange '%s' in vhost '/'", names[i], names[i]))
		}
		change, err := p.Prepare(t.Context(), settings(url))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, problem := range change.Verify(names) {
			got = append(got, problem.Error())
		}
		change.Commit()
		if !slices.Equal(got, want) {
			t.Errorf("without %v: %s\nwant %s", missing, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, i := range missing {
			declare(i)
		}
	}
	for i := range names {
		remove(i)
	}
}

func TestReloadsAskOnOneChannelAsLongAsNoExchangeIsMissing(t *testing.T) {
	broker := amqptest.Start(t)
	p := start(t, settings(broker.URL()), "a", "b", "c")
	must(t, p, delivery("a", "k"), Confirmed)
	before := broker.Channels()
	for range 5 {
		change, err := p.Prepare(t.Context(), settings(broker.URL()))
		if err != nil {
			t.Fatal(err)
		}
		if problems := change.Verify([]string{"a", "b", "c"}); len(problems) > 0 {
			t.Error(problems)
		}
		change.Commit()
	}
	if opened := broker.Channels() - before; opened > 0 {
		t.Errorf("%d channels were opened", opened)
	}
}
