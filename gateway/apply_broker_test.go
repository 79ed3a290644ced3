package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/certs"
)

func TestOnly_a_reload_that_is_applied_declares_and_reports_what_the_broker_refuses(t *testing.T) {
	double := amqptest.Start(t)
	h := newHouse(t, entry("a", port(t)))
	address := port(t)
	held, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	at := func(topology string) string {
		return strings.Replace(h.config(entry("a", port(t))), "amqp: {urls: ["+quote(nowhere)+"]}",
			"amqp: {urls: ["+quote(double.URL())+"], topology: {"+topology+"}}", 1)
	}
	h.must(h.apply(at("exchanges: [{name: first, type: topic}]")))
	if !slices.Contains(double.Declared(), "exchange first") {
		t.Errorf("declared %q", double.Declared())
	}

	double.Exchange("other", amqptest.Inequivalent)
	double.Queue("secret", amqptest.Forbidden)
	double.Exchange("x", amqptest.Missing)
	changed := at("exchanges: [{name: second, type: topic}, {name: other, type: topic}], queues: [{name: secret}]")
	before := len(double.Declared())
	if _, err := h.apply(changed + entry("b", address)); err == nil {
		t.Fatal("a busy port was bound")
	}
	if now := double.Declared(); len(now) != before {
		t.Errorf("a reload that was rejected has asked for %q", now[before:])
	}
	held.Close()
	applied := h.must(h.apply(changed + entry("b", address)))
	if now := double.Declared(); !slices.Contains(now, "exchange second") {
		t.Errorf("declared %q", now)
	}
	for i, want := range []string{`declare exchange "other": `, `declare queue "secret": `, `exchange "x" is unusable: `} {
		if len(applied.Warnings) != 3 || !strings.HasPrefix(applied.Warnings[i], want) {
			t.Errorf("warnings %q, want %q", applied.Warnings, want)
		}
	}
}

func TestA_broker_that_does_not_answer_what_is_declared_holds_up_a_reload_for_a_moment_and_is_reported(t *testing.T) {
	double := amqptest.Start(t)
	h := newHouse(t, entry("a", port(t)))
	config := strings.Replace(h.config(entry("a", port(t))), "urls: ["+quote(nowhere)+"]", "urls: ["+quote(double.URL())+"]", 1)
	h.must(h.apply(config))
	double.StopReading()
	defer double.ReadOn()
	applied := h.must(h.apply(strings.Replace(config, "]}", "], topology: {queues: [{name: q}]}}", 1)))
	want := []string{"the topology is not declared yet", `exchange "x" is not verified yet`}
	if !slices.Equal(applied.Warnings, want) {
		t.Errorf("warnings %q, want %q", applied.Warnings, want)
	}
}

func TestA_certificate_for_the_broker_that_is_replaced_in_its_file_is_tried_before_it_is_in_force(t *testing.T) {
	ours, others := certs.NewAuthority(t), certs.NewAuthority(t)
	double := amqptest.StartTLS(t, ours.Server(t, tls.RequireAndVerifyClientCert, "127.0.0.1"))
	h := newHouse(t, entry("a", port(t)))
	ca, own := filepath.Join(h.dir, "ca.pem"), filepath.Join(h.dir, "own")
	config := strings.Replace(h.config(entry("a", port(t))), "amqp: {urls: ["+quote(nowhere)+"]}",
		"amqp: {urls: ["+quote(double.URL())+"], tls: {ca_file: "+ca+", cert_file: "+own+".pem, key_file: "+own+".key}}", 1)
	certs.Write(t, ca, ours.PEM)
	ours.Issue(t, 1, "gateway").Write(t, own)
	h.must(h.apply(config))
	first := double.Attempts()

	rejected := func(why string) {
		t.Helper()
		if _, err := h.apply(config); err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "the connection in use stays") {
			t.Errorf("%s: %v", why, err)
		}
	}
	others.Issue(t, 2, "gateway").Write(t, own)
	rejected("refuses our certificate")
	ours.Issue(t, 3, "gateway").Write(t, own)
	certs.Write(t, ca, others.PEM)
	rejected("shows a certificate that is not trusted")
	if s := h.Status().Broker; s.State != "connected" || s.Broker != double.Addr() {
		t.Errorf("the broker is %s: %s", s.State, s.Error)
	}

	certs.Write(t, ca, ours.PEM)
	before := double.Attempts()
	h.must(h.apply(config))
	if n := double.Attempts() - before; n != 1 || before != first+2 {
		t.Errorf("%d connections with what is good, %d tried before", n, before-first)
	}
	h.must(h.apply(config))
	if n := double.Attempts() - before; n != 1 {
		t.Errorf("%d connections though nothing has changed since", n-1)
	}
}

func quote(s string) string { return `"` + s + `"` }

func TestAn_unchanged_configuration_has_the_broker_asked_again(t *testing.T) {
	double := amqptest.Start(t)
	h := newHouse(t, entry("a", port(t)))
	h.must(h.apply(strings.Replace(h.config(entry("a", port(t))), quote(nowhere), quote(double.URL()), 1)))
	if told := h.Mend().Warnings; len(told) != 0 {
		t.Errorf("warnings %q", told)
	}
	double.Exchange("x", amqptest.Missing)
	if told := h.Mend().Warnings; len(told) != 1 || !strings.HasPrefix(told[0], `exchange "x" is unusable: `) {
		t.Errorf("deleted: warnings %q", told)
	}
	double.Exchange("x", amqptest.Usable)
	if told := h.Mend().Warnings; len(told) != 0 {
		t.Errorf("made again: warnings %q", told)
	}
	double.Refuse(true)
	double.Reset()
	eventually(t, "the broker is lost", func() bool { return !h.publisher.Available() })
	if told := h.Mend().Warnings; len(told) != 1 || !strings.HasPrefix(told[0], `exchange "x" is not verified yet: broker `) {
		t.Errorf("away: warnings %q", told)
	}
}

func TestA_stop_ends_a_reload_that_waits_for_a_broker_and_leaves_the_table_in_force(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	h := newHouse(t, entry("a", port(t)))
	before := h.Status()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		c, err := silent.Accept()
		if err == nil {
			defer c.Close()
			stop()
			c.Read(make([]byte, 100)) // the protocol's header
			c.Read(make([]byte, 100)) // until they hang up
		}
	}()
	table := h.table(strings.Replace(h.config(entry("b", port(t))), quote(nowhere), quote("amqp://"+silent.Addr().String()+"/"), 1))
	if applied, err := h.Apply(ctx, table); !errors.Is(err, context.Canceled) {
		t.Errorf("applied %+v, %v", applied, err)
	}
	if after := h.Status(); len(after.Listeners) != 1 || after.Listeners[0].Name != before.Listeners[0].Name {
		t.Errorf("listeners %+v", after.Listeners)
	}
}
