package mail

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"lsmtpd/routes/address"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"pgregory.net/rapid"
)

func TestHeaders_of_raw_tell_the_envelope(t *testing.T) {
	d := sample(t, Raw, "x\r\n")
	want := map[string]any{
		"tenant":             "a",
		"traceparent":        wantTrace(d),
		"lsmtpd-mail-id":     "0b5d6a1e-7d1a-4a57-8f4e-5f0a6f1c9d22",
		"lsmtpd-listener":    "inbound",
		"lsmtpd-sender":      "from@example.org",
		"lsmtpd-recipients":  []any{"admin@example.org", `"with \"quotes\" <&>"@example.org`},
		"lsmtpd-client-ip":   "192.0.2.7",
		"lsmtpd-helo":        "client.example",
		"lsmtpd-user":        "app",
		"lsmtpd-tls":         "TLS1.3 TLS_AES_128_GCM_SHA256",
		"lsmtpd-received-at": "2025-09-23T23:18:51.477629045+00:00",
		"lsmtpd-size":        int64(3),
	}
	if got := d.AMQPHeaders(); !reflect.DeepEqual(got, want) {
		t.Errorf("headers %v\nwant    %v", got, want)
	}
	d.SpooledAt = time.Date(2025, 9, 24, 0, 0, 0, 1, time.UTC)
	want["lsmtpd-spooled"] = "2025-09-24T00:00:00.000000001+00:00"
	if got := d.AMQPHeaders(); !reflect.DeepEqual(got, want) {
		t.Errorf("replayed: headers %v\nwant    %v", got, want)
	}
	if d.ContentType() != "message/rfc822" {
		t.Error(d.ContentType())
	}
}

// wantTrace is the traceparent of d by another way than AMQPHeaders makes it.
func wantTrace(d *Delivery) string { return fmt.Sprintf("00-%x-%x-01", d.Envelope.ID[:], d.ID[8:]) }

func TestHeaders_of_json_are_the_trace_and_the_configurations(t *testing.T) {
	d := sample(t, JSON, "x\r\n")
	if got := d.AMQPHeaders(); !reflect.DeepEqual(got, map[string]any{"tenant": "a", "traceparent": wantTrace(d)}) {
		t.Errorf("headers %v", got)
	}
	d.Headers = map[string]string{"traceparent": "the configuration's own"}
	d.SpooledAt = time.Unix(0, 0)
	want := map[string]any{"traceparent": "the configuration's own", "lsmtpd-spooled": "1970-01-01T00:00:00.000000000+00:00"}
	if got := d.AMQPHeaders(); !reflect.DeepEqual(got, want) {
		t.Errorf("headers %v", got)
	}
	if d.ContentType() != "application/json" {
		t.Error(d.ContentType())
	}
}

func TestA_trace_is_the_mails_and_a_span_the_deliverys(t *testing.T) {
	d := sample(t, JSON, "x\r\n")
	d.Headers = nil
	live := d.AMQPHeaders()["traceparent"]
	d.SpooledAt = time.Now()
	if replayed := d.AMQPHeaders()["traceparent"]; replayed != live || len(replayed.(string)) != len(traceParent) {
		t.Errorf("%q replayed, %q live", replayed, live)
	}
	other := *d.Envelope
	more := &Delivery{ID: uuid.New(), Envelope: &other, Format: JSON}
	if got := more.AMQPHeaders()["traceparent"].(string); got[:36] != live.(string)[:36] || got == live {
		t.Errorf("%q beside %q of one mail", got, live)
	}
	more.ID = uuid.UUID{1} // no UUID of ours, but of what somebody spooled
	if got := more.AMQPHeaders()["traceparent"].(string); strings.Contains(got, "-0000000000000000-") {
		t.Errorf("%q", got)
	}
}

func TestHeaders_are_what_the_AMQP_library_takes_and_UTF8(t *testing.T) {
	d := sample(t, Raw, "x\r\n")
	d.Envelope.Helo = "a\xffb"
	d.SpooledAt = time.Now()
	h := d.AMQPHeaders()
	if err := amqp.Table(h).Validate(); err != nil {
		t.Error(err)
	}
	if h["lsmtpd-helo"] != "a\uFFFDb" {
		t.Errorf("lsmtpd-helo %q", h["lsmtpd-helo"])
	}
}

// tableOctets encodes h as AMQP does, by another way than tableSize counts it.
func tableOctets(h map[string]any) []byte {
	var long func(b *bytes.Buffer, v any)
	long = func(b *bytes.Buffer, v any) {
		switch v := v.(type) {
		case string:
			b.WriteByte('S')
			_ = binary.Write(b, binary.BigEndian, uint32(len(v)))
			b.WriteString(v)
		case int64:
			b.WriteByte('l')
			_ = binary.Write(b, binary.BigEndian, v)
		case []any:
			var items bytes.Buffer
			for _, item := range v {
				long(&items, item)
			}
			b.WriteByte('A')
			_ = binary.Write(b, binary.BigEndian, uint32(items.Len()))
			b.Write(items.Bytes())
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	var b bytes.Buffer
	b.Write(make([]byte, 4))
	for name, value := range h {
		b.WriteByte(byte(len(name)))
		b.WriteString(name)
		long(&b, value)
	}
	return b.Bytes()
}

func TestFit_tells_how_many_recipients_one_header_table_takes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d := sample(t, Raw, "x\r\n")
		d.SpooledAt = time.Now()
		d.Headers = map[string]string{"filler": strings.Repeat("x", rapid.IntRange(0, 70000).Draw(r, "filler"))}
		d.Recipients = nil
		for i := range rapid.IntRange(1, 2000).Draw(r, "recipients") {
			d.Recipients = append(d.Recipients, address.Address{Local: fmt.Sprintf("user%0*d", 1+i%40, i), Domain: "example.org"})
		}
		all := d.Recipients
		n := d.Fit(MaxTable)
		d.Recipients = all[:n]
		if size := len(tableOctets(d.AMQPHeaders())); n > 0 && size > MaxTable {
			r.Fatalf("%d recipients make a table of %d octets", n, size)
		}
		if n == len(all) {
			return
		}
		d.Recipients = all[:n+1]
		if size := len(tableOctets(d.AMQPHeaders())); size <= MaxTable {
			r.Fatalf("%d recipients make a table of only %d octets, but Fit said %d", n+1, size, n)
		}
		if d.Check() == nil {
			r.Fatalf("Check took a table that is too large")
		}
	})
}

func TestFit_passes_every_recipient_of_json(t *testing.T) {
	d := sample(t, JSON, "x\r\n")
	d.Recipients = make([]address.Address, 100000)
	if n := d.Fit(MaxTable); n != 100000 {
		t.Errorf("Fit() = %d", n)
	}
	d.Headers = map[string]string{"too": strings.Repeat("x", MaxTable)}
	if n := d.Fit(MaxTable); n != 0 {
		t.Errorf("Fit() = %d beside headers that leave no room", n)
	}
}

func TestCheck_refuses_what_would_close_the_connection(t *testing.T) {
	if err := sample(t, Raw, "x").Check(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("k", 256)
	for name, c := range map[string]struct {
		change func(*Delivery)
		want   string
	}{
		"format":              {func(d *Delivery) { d.Format = "xml" }, `unknown format "xml"`},
		"exchange":            {func(d *Delivery) { d.Exchange = long }, "exchange of 256 octets"},
		"routing key":         {func(d *Delivery) { d.RoutingKey = long }, "routing key of 256 octets"},
		"routing key's UTF-8": {func(d *Delivery) { d.RoutingKey = "\xff" }, "not UTF-8"},
		"header name":         {func(d *Delivery) { d.Headers = map[string]string{long: ""} }, "header name of 256 octets"},
		"header's UTF-8":      {func(d *Delivery) { d.Headers = map[string]string{"a": "\xff"} }, `header "a" is not UTF-8`},
		"header table":        {func(d *Delivery) { d.Headers = map[string]string{"a": strings.Repeat("x", MaxTable)} }, "0 of 2 recipients"},
		"no recipient":        {func(d *Delivery) { d.Recipients = nil }, "no recipient"},
	} {
		t.Run(name, func(t *testing.T) {
			d := sample(t, Raw, "x")
			c.change(d)
			if err := d.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
