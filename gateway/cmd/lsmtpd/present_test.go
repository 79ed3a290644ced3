package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestLook_reads_what_lsmtpd_and_its_predecessor_published(t *testing.T) {
	tests := []struct {
		name    string
		message amqp.Delivery
		sender  string
		to      string // joined by blanks
		size    int64
		content string
		isMail  bool
	}{
		{"JSON", amqp.Delivery{Body: jsonMail.Body, Headers: jsonMail.Headers},
			"ann@example.com", "bob@example.net eve@example.org", 48, "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nhello\r\n", true},
		{"raw", amqp.Delivery{Body: rawMail.Body, Headers: rawMail.Headers}, "", "bob@example.net", 22, string(rawMail.Body), true},
		{"base64", amqp.Delivery{Body: []byte(`{"sender":"a@x","recipients":["b@x"],"email_content":"DQr/AA==","size":4,"encoding":"base64"}`)},
			"a@x", "b@x", 4, "\r\n\xff\x00", true},
		{"the six keys of LSMTPD", amqp.Delivery{Body: []byte(`{"timestamp":"t","message_id":"i","client_address":"c","recipients":["b@x"],"email_content":"\r\nhi\r\n","sender":"a@x"}`)},
			"a@x", "b@x", 6, "\r\nhi\r\n", true},
		{"base64 that is none", amqp.Delivery{Body: []byte(`{"email_content":"%","encoding":"base64"}`)}, "", "", 41, `{"email_content":"%","encoding":"base64"}`, false},
		{"another JSON object", amqp.Delivery{Body: []byte(`{"sender":1}`)}, "", "", 12, `{"sender":1}`, false},
		{"something else", amqp.Delivery{Body: []byte("hello")}, "", "", 5, "hello", false},
		{"headers of other types", amqp.Delivery{Headers: amqp.Table{"lsmtpd-sender": int32(1), "lsmtpd-size": "big", "lsmtpd-recipients": "b@x"}}, "", "", 0, "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := look(&test.message)
			if test.size != s.Size || s.Sender != test.sender || strings.Join(s.Recipients, " ") != test.to || string(s.content) != test.content || s.mail != test.isMail {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestLook_keeps_the_headers_that_are_not_the_envelope(t *testing.T) {
	s := look(&amqp.Delivery{Headers: amqp.Table{
		"tenant": "a", "n": int32(7), "nested": amqp.Table{"at": time.Unix(0, 0).UTC()}, "lsmtpd-spooled": "2026-01-01T00:00:00Z", "lsmtpd-user": "app",
	}})
	want := `{"lsmtpd-spooled":"2026-01-01T00:00:00Z","n":"7","nested":"map[at:1970-01-01 00:00:00 +0000 UTC]","tenant":"a"}`
	if got, err := json.Marshal(s.Headers); err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

func TestLook_tells_the_time_of_AMQP_where_the_message_tells_none(t *testing.T) {
	if s := look(&amqp.Delivery{Timestamp: time.Unix(1, 0)}); s.Time != "1970-01-01T00:00:01Z" {
		t.Errorf("%q", s.Time)
	}
}

func TestSubject_is_found_and_decoded(t *testing.T) {
	tests := []struct{ name, content, want string }{
		{"plain", "From: a\r\nSubject: hello\r\n\r\nx", "hello"},
		{"any case, and a blank before the colon", "SUBJECT : hello\r\n\r\n", "hello"},
		{"folded", "Subject: a\r\n b\r\n\tc\r\nTo: d\r\n\r\n", "a b\tc"},
		{"encoded words", "Subject: =?utf-8?q?Gr=C3=BC?= =?iso-8859-1?b?3w==?=\r\n\r\n", "Grüß"},
		{"an unknown character set stays encoded", "Subject: =?klingon?q?x?=\r\n\r\n", "=?klingon?q?x?="},
		{"the first of two", "Subject: a\r\nSubject: b\r\n\r\n", "a"},
		{"none", "From: a\r\n\r\nSubject: in the body\r\n", ""},
		{"bare line feeds", "From: a\nSubject: b\n\nx", "b"},
		{"no body", "Subject: b", "b"},
		{"an empty mail", "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := subject([]byte(test.content)); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestRaw_mail_is_escaped_on_a_terminal_only(t *testing.T) {
	content := []byte("a: b\r\n\r\n\x1b[2J\tü\r\n")
	p := printer{form: mails}
	if got := p.raw(content); !bytes.Equal(got, content) {
		t.Errorf("%q", got)
	}
	p.terminal = true
	if got := string(p.raw(content)); got != "a: b\n\n\\x1b[2J\tü\n\n" {
		t.Errorf("%q", got)
	}
}

func FuzzMessages_from_anybody_are_printed_without_harm(f *testing.F) {
	f.Add(jsonMail.Body, "mail.example.net", "a")
	f.Add(rawMail.Body, "\x1b[2J", "\u009b")
	f.Add([]byte(`{"email_content":"Subject: \u202e\u001b\r\n\r\n","recipients":["\n"],"sender":"\u0085","timestamp":"\r"}`), "", "\xff")
	f.Add([]byte(`{"email_content":"`+"\U000e0001"+`","recipients":null}`), "\U000e0001", "\x00")
	f.Fuzz(func(t *testing.T, body []byte, key, header string) {
		s := look(&amqp.Delivery{Body: body, RoutingKey: key, Headers: amqp.Table{"h" + header: header, "lsmtpd-sender": header}})
		for _, line := range strings.SplitAfter(strings.ReplaceAll(s.block(), "\ufffd", ""), "\n") {
			if strings.ContainsFunc(line, obeyed) || line != "" && line != "\n" && !strings.HasPrefix(line, "  ") && !strings.Contains(line, "  ") {
				t.Errorf("%q", line)
			}
		}
		object := jsonLine(s)
		if bytes.ContainsFunc(object, obeyed) || bytes.Count(object, []byte("\n")) != 1 {
			t.Errorf("%q", object)
		}
		var back seen
		if err := json.Unmarshal(object, &back); err != nil || utf8.ValidString(key) && back.RoutingKey != key {
			t.Errorf("%q: %v", object, err)
		}
	})
}
