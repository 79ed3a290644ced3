package mail

import (
	"reflect"
	"strings"
	"testing"

	"lsmtpd/routes/address"

	"github.com/google/uuid"
)

func TestDecode_gives_back_envelope_and_recipients(t *testing.T) {
	d := sample(t, JSON, "x\r\n")
	back, err := Decode(d.AppendPayload(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Content.Release()
	want := *d.Envelope
	want.ReceivedAt = want.ReceivedAt.UTC()
	if !reflect.DeepEqual(*back.Envelope, want) {
		t.Errorf("envelope %+v\nwant     %+v", *back.Envelope, want)
	}
	if back.ID != d.ID || !reflect.DeepEqual(back.Recipients, d.Recipients) {
		t.Errorf("id %s, recipients %v", back.ID, back.Recipients)
	}
}

func TestDecode_reads_what_LSMTPD_wrote(t *testing.T) {
	d, err := Decode([]byte(`{
		"sender": "from@example.org",
		"email_content": "Subject: \u00e9\ud83d\udce7\/\r\n\r\nx",
		"recipients": ["admin@example.org", "no domain", "two words@example.org"],
		"client_address": "[192.0.2.1]",
		"message_id": "cf4c844f-a317-44f7-97a3-0aaa5be372e3",
		"timestamp": "2025-09-23T23:18:51.477629045+00:00",
		"unknown": [{"nested": null}]
	}`))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Content.Release()
	if got := string(d.Content.Octets()); got != "Subject: é📧/\r\n\r\nx" {
		t.Errorf("mail %q", got)
	}
	if d.Envelope.ID != d.ID {
		t.Errorf("mail's id %s, want that of the message, %s", d.Envelope.ID, d.ID)
	}
	want := []address.Address{{Local: "admin", Domain: "example.org"}, {Local: "no domain"}, {Local: "two words", Domain: "example.org"}}
	if !reflect.DeepEqual(d.Recipients, want) {
		t.Errorf("recipients %v, want %v", d.Recipients, want)
	}
	if !d.Envelope.ReceivedAt.Equal(sample(t, JSON, "").Envelope.ReceivedAt) {
		t.Errorf("received at %v", d.Envelope.ReceivedAt)
	}
}

func TestDecodeEnvelope_leaves_the_mail_alone(t *testing.T) {
	d, err := DecodeEnvelope(sample(t, JSON, "x\r\n").AppendPayload(nil))
	if err != nil {
		t.Fatal(err)
	}
	if d.Content != nil || d.Envelope.Listener != "inbound" {
		t.Errorf("content %v, listener %q", d.Content, d.Envelope.Listener)
	}
}

func TestDecode_tells_what_is_wrong_with_a_payload(t *testing.T) {
	good := `{"timestamp":"2025-09-23T23:18:51Z","message_id":"cf4c844f-a317-44f7-97a3-0aaa5be372e3","recipients":["a@b"],"email_content":"x"}`
	if d, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	} else {
		d.Content.Release()
	}
	for _, c := range []struct{ old, new, want string }{
		{`"timestamp"`, `"time"`, "without timestamp"},
		{"2025-09-23T23:18:51Z", "9999-12-31T23:59:59-01:00", "timestamp cannot be written"},
		{"2025-09-23T23:18:51Z", "0000-01-01T00:00:00+01:00", "timestamp cannot be written"},
		{`"message_id"`, `"id"`, "without message_id"},
		{`"cf4c844f`, `"zf4c844f`, "UUID"},
		{`"a@b"`, ``, "without recipients"},
		{`"email_content"`, `"content"`, "without email_content"},
		{`"email_content":"x"`, `"email_content":null`, "not a string"},
		{`"email_content":"x"`, `"email_content":7`, "not a string"},
		{`"x"}`, `"x","encoding":"rot13"}`, `unknown encoding "rot13"`},
		{`"x"}`, `"&","encoding":"base64"}`, "illegal base64"},
		{`"x"}`, "\"\xff\"}", "not UTF-8"},
		{`"x"}`, `"\ud83d"}`, "surrogate"},
		{`"x"}`, `"\ud83d\u0041"}`, "surrogate"},
		{`"x"}`, `"\udce7\ud83d"}`, "surrogate"},
		{`"x"}`, `"x`, "unexpected end"},
		{good, ``, "unexpected end"},
		{good, `[]`, "cannot unmarshal"},
	} {
		d, err := Decode([]byte(strings.Replace(good, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s → %s: error %v, want one with %q", c.old, c.new, err, c.want)
		}
		if d != nil && err == nil {
			d.Content.Release()
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"timestamp":"2025-09-23T23:18:51Z","message_id":"cf4c844f-a317-44f7-97a3-0aaa5be372e3","recipients":["a@b"],"email_content":"\u0000\ud83d\udce7"}`))
	f.Add([]byte(`{"timestamp":"2025-09-23T23:18:51Z","message_id":"cf4c844f-a317-44f7-97a3-0aaa5be372e3","recipients":["a@b"],"email_content":"AA==","encoding":"base64"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := Decode(payload)
		if err != nil {
			return
		}
		defer d.Content.Release()
		if d.ID == uuid.Nil || len(d.Recipients) == 0 {
			t.Fatalf("incomplete: %+v", d)
		}
		d.Format = JSON
		payload = d.AppendPayload(nil)
		if int64(len(payload)) != d.Size() {
			t.Fatalf("Size() = %d, the payload has %d octets", d.Size(), len(payload))
		}
		again, err := Decode(payload)
		if err != nil {
			t.Fatalf("what was decoded cannot be written and decoded again: %v", err)
		}
		defer again.Content.Release()
		if string(again.Content.Octets()) != string(d.Content.Octets()) {
			t.Fatalf("mail %q became %q", d.Content.Octets(), again.Content.Octets())
		}
	})
}
