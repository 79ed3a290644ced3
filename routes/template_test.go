package routes

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestA_destination_is_rendered_for_the_recipient(t *testing.T) {
	full := Query{
		Sender: parse("Some.One@sender.example"), Recipient: parse("jo+tag+2@rcpt.example"), Client: netip.MustParseAddr("::ffff:192.0.2.1"), User: "app",
	}
	hostile := Query{
		Sender: parse("*.#@sender.example"), Recipient: parse(`"a b+c#*"@rcpt.example`), Client: netip.MustParseAddr("fe80::1%eth0"), User: "a\x00b*",
	}
	null := Query{Recipient: parse("jo@[192.0.2.1]")}
	tests := []struct{ template, full, hostile, null string }{
		{"plain", "plain", "plain", "plain"},
		{"", "", "", ""},
		{"{listener}", "inbound", "inbound", "inbound"},
		{"a.{listener}.b{listener}", "a.inbound.binbound", "a.inbound.binbound", "a.inbound.binbound"},
		{"{recipient}", "jo+tag+2@rcpt.example", `"a b+c__"@rcpt.example`, "jo@[192.0.2.1]"},
		{"{recipient.local}", "jo+tag+2", `"a b+c__"`, "jo"},
		{"{recipient.tag}", "tag+2", "_", "_"},
		{"mail.{recipient.domain}", "mail.rcpt.example", "mail.rcpt.example", "mail.[192.0.2.1]"},
		{"{sender}", "Some.One@sender.example", "_._@sender.example", "_"},
		{"{sender.domain}.x", "sender.example.x", "sender.example.x", "_.x"},
		{"{client.ip}", "192.0.2.1", "fe80::1", "_"},
		{"{user}", "app", "a_b_", "_"},
		{"*.#.{user}}", "*.#.app}", "*.#.a_b_}", "*.#._}"},
	}
	for _, tt := range tests {
		t.Run(tt.template, func(t *testing.T) {
			l := listener(t, fmt.Sprintf("exchange: x\nrouting_key: %q\nheaders: {h: %q}", tt.template, tt.template))
			for _, c := range []struct {
				q    *Query
				want string
			}{{&full, tt.full}, {&hostile, tt.hostile}, {&null, tt.null}} {
				d := l.Route(c.q).Destination(c.q)
				if d.RoutingKey != c.want || d.Exchange != "x" || d.Format != "json" {
					t.Errorf("the destination is %+v, want the key %q", d, c.want)
				}
				if header := d.Headers["h"]; c.q != &hostile && header != c.want {
					t.Errorf("the header is %q, want %q", header, c.want)
				}
			}
		})
	}
}

func TestA_header_keeps_what_only_a_routing_key_cannot_hold(t *testing.T) {
	l := listener(t, "exchange: x\nheaders: {h: \"{sender} {user}\"}")
	q := Query{Sender: parse("*#@a"), Recipient: parse("a@b"), User: "u\r\n\x7f*"}
	if got, want := l.Route(&q).Destination(&q).Headers["h"], "*#@a u___*"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestA_route_takes_from_its_listener_what_it_does_not_say(t *testing.T) {
	l := listener(t, `
exchange: "ex-{listener}"
routing_key: key
format: raw
headers: {a: "1", b: "2"}
routes:
- {match: {recipient: none.example}}
- {match: {recipient: key.example}, routing_key: "own.{recipient.local}"}
- {match: {recipient: all.example}, exchange: "{recipient.domain}", routing_key: "", format: json, headers: {b: "3", c: "{user}"}}
- {match: {recipient: queue.example}, exchange: "", routing_key: "{recipient.domain}"}
- {match: {recipient: empty.example}, headers: {}}
`)
	for domain, want := range map[string]Destination{
		"default.example": {"ex-inbound", "key", "raw", map[string]string{"a": "1", "b": "2"}},
		"none.example":    {"ex-inbound", "key", "raw", map[string]string{"a": "1", "b": "2"}},
		"key.example":     {"ex-inbound", "own.u", "raw", map[string]string{"a": "1", "b": "2"}},
		"all.example":     {"all.example", "", "json", map[string]string{"a": "1", "b": "3", "c": "_"}},
		"queue.example":   {"", "queue.example", "raw", map[string]string{"a": "1", "b": "2"}},
		"empty.example":   {"ex-inbound", "key", "raw", map[string]string{"a": "1", "b": "2"}},
	} {
		q := Query{Recipient: parse("u@" + domain)}
		got := l.Route(&q).Destination(&q)
		if !got.equal(&want) {
			t.Errorf("%s goes to %+v, want %+v", domain, got, want)
		}
	}
}

func TestNothing_that_a_client_sends_gets_a_control_octet_or_a_wildcard_into_a_key(t *testing.T) {
	l := listener(t, `
exchange: x
routing_key: "{recipient}.{recipient.local}.{recipient.tag}.{sender}.{user}.{client.ip}"
headers: {h: "{recipient}{sender}{user}"}
`)
	rapid.Check(t, func(t *rapid.T) {
		q := Query{User: rapid.String().Draw(t, "user"), Client: netip.MustParseAddr("192.0.2.1")}
		q.Recipient.Local, q.Recipient.Domain = rapid.String().Draw(t, "local"), "d"
		q.Sender.Local, q.Sender.Domain = rapid.String().Draw(t, "sender"), "d"
		d := l.Route(&q).Destination(&q)
		if strings.ContainsAny(d.RoutingKey, "*#\x00\r\n\x1b\x7f") || strings.ContainsAny(d.Headers["h"], "\x00\r\n\x1b\x7f") {
			t.Fatalf("%+v", d)
		}
	})
}

func TestRecipients_of_one_destination_travel_together(t *testing.T) {
	l := listener(t, `
exchange: x
headers: {a: "{sender}"}
routes:
- {match: {recipient: same.example}, exchange: x, headers: {b: c}}
- {match: {recipient: twin.example}, exchange: x, headers: {b: c}}
- {match: {recipient: key.example}, routing_key: k}
- {match: {recipient: format.example}, format: raw}
- {match: {recipient: tag.example}, headers: {t: "{recipient.tag}"}}
`)
	var batches []Batch
	for _, to := range []string{
		"1@a.example", "2@b.example", "3@same.example", "4@twin.example", "5@key.example", "6@format.example",
		"7+x@tag.example", "8+y@tag.example", "9+x@tag.example", "1@key.example", "1@a.example",
	} {
		q := Query{Sender: parse("s@t"), Recipient: parse(to)}
		batches, _ = Group(batches, l.Route(&q).Destination(&q), q.Recipient)
	}
	var got []string
	for _, b := range batches {
		var to []string
		for _, r := range b.Recipients {
			to = append(to, r.String())
		}
		got = append(got, strings.Join(to, " "))
	}
	want := []string{
		"1@a.example 2@b.example 1@a.example", "3@same.example 4@twin.example", "5@key.example 1@key.example", "6@format.example",
		"7+x@tag.example 9+x@tag.example", "8+y@tag.example",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !maps.Equal(batches[1].Headers, map[string]string{"a": "s@t", "b": "c"}) {
		t.Errorf("the headers are %v", batches[1].Headers)
	}
}

func TestA_batch_that_is_not_taken_leaves_the_others_as_they_were(t *testing.T) {
	one, _ := Group(nil, Destination{Exchange: "a"}, parse("1@a"))
	two, _ := Group(one, Destination{Exchange: "b"}, parse("2@b"))
	if len(one) != 1 || len(two) != 2 || len(one[0].Recipients) != 1 {
		t.Errorf("%v, %v", one, two)
	}
}

func BenchmarkDestination(b *testing.B) {
	for name, content := range map[string]string{
		"literal":  "exchange: x\nrouting_key: k\nheaders: {a: b}",
		"template": "exchange: x\nrouting_key: \"mail.{recipient.domain}\"\nheaders: {a: b}",
	} {
		l := listener(b, content)
		q := Query{Recipient: parse("someone@mail.example.com")}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = l.Route(&q).Destination(&q)
			}
		})
	}
}

func BenchmarkGroup(b *testing.B) {
	l := listener(b, "exchange: x\nrouting_key: \"mail.{recipient.domain}\"\nheaders: {a: b}")
	q := Query{Recipient: parse("someone@mail.example.com")}
	d := l.Route(&q).Destination(&q)
	b.ReportAllocs()
	for b.Loop() {
		var batches []Batch
		for range 100 {
			batches, _ = Group(batches, d, q.Recipient)
		}
	}
}
