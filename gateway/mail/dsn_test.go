package mail

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"lsmtpd/routes/address"

	"pgregory.net/rapid"
)

// asking is a sample whose client asked for notifications.
func asking(t testing.TB, format string) *Delivery {
	d := sample(t, format, "x\r\n")
	d.Envelope.Ret, d.Envelope.EnvID = "HDRS", "QQ314159+2B"
	d.DSN = []DSN{{Notify: "SUCCESS,DELAY"}, {ORcpt: "rfc822;with+20blank@example.org"}}
	return d
}

func TestWhat_was_asked_of_notifications_travels_in_the_headers_of_raw(t *testing.T) {
	h := asking(t, Raw).AMQPHeaders()
	for name, want := range map[string]any{
		"lsmtpd-dsn-ret":    "HDRS",
		"lsmtpd-dsn-envid":  "QQ314159+2B",
		"lsmtpd-dsn-notify": []any{"SUCCESS,DELAY", ""},
		"lsmtpd-dsn-orcpt":  []any{"", "rfc822;with+20blank@example.org"},
	} {
		if !reflect.DeepEqual(h[name], want) {
			t.Errorf("%s: %q, want %q", name, h[name], want)
		}
	}
	d := asking(t, Raw)
	d.Envelope.Ret, d.Envelope.EnvID, d.DSN = "", "", []DSN{{Notify: "NEVER"}, {}}
	h = d.AMQPHeaders()
	for _, name := range []string{"lsmtpd-dsn-ret", "lsmtpd-dsn-envid", "lsmtpd-dsn-orcpt"} {
		if v, there := h[name]; there {
			t.Errorf("%s: %q, and nobody asked", name, v)
		}
	}
	if len(asking(t, JSON).AMQPHeaders()) != 2 {
		t.Error("the headers of json tell more than the trace and the configuration's")
	}
}

func TestWhat_was_asked_of_notifications_stands_in_the_payload_and_is_read_back(t *testing.T) {
	d := asking(t, JSON)
	payload := d.AppendPayload(nil)
	want := `"size":3,"dsn":{"ret":"HDRS","envid":"QQ314159+2B","notify":["SUCCESS,DELAY",""],"orcpt":["","rfc822;with+20blank@example.org"]}}`
	if !strings.HasSuffix(string(payload), want) {
		t.Errorf("payload %s\nends not in %s", payload, want)
	}
	if int64(len(payload)) != d.Size() {
		t.Errorf("Size() = %d, the payload has %d octets", d.Size(), len(payload))
	}
	back, err := Decode(payload)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Content.Release()
	if !reflect.DeepEqual(back.DSN, d.DSN) || back.Envelope.Ret != "HDRS" || back.Envelope.EnvID != "QQ314159+2B" {
		t.Errorf("read back: %q, %+v", back.DSN, back.Envelope)
	}
}

func TestDecode_takes_a_dsn_that_is_not_whole(t *testing.T) {
	d := asking(t, JSON)
	payload := strings.Replace(string(d.AppendPayload(nil)), `"notify":["SUCCESS,DELAY",""]`, `"notify":["NEVER","",""]`, 1)
	payload = strings.Replace(payload, `"orcpt":["","rfc822;with+20blank@example.org"]`, `"orcpt":null`, 1)
	back, err := Decode([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Content.Release()
	if !reflect.DeepEqual(back.DSN, []DSN{{Notify: "NEVER"}, {}}) {
		t.Errorf("read back: %q", back.DSN)
	}
}

func TestFit_counts_what_was_asked_of_notifications(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d := asking(t, Raw)
		d.SpooledAt = time.Now()
		d.Recipients, d.DSN = nil, nil
		for i := range rapid.IntRange(1, 1000).Draw(r, "recipients") {
			d.Recipients = append(d.Recipients, address.Address{Local: fmt.Sprintf("user%d", i), Domain: "example.org"})
			d.DSN = append(d.DSN, DSN{"FAILURE", "rfc822;" + strings.Repeat("x", i%490)})
		}
		recipients, dsn := d.Recipients, d.DSN
		n := d.Fit(MaxTable)
		d.Recipients, d.DSN = recipients[:n], dsn[:n]
		if size := len(tableOctets(d.AMQPHeaders())); size > MaxTable {
			r.Fatalf("%d recipients make a table of %d octets", n, size)
		}
		if n < len(recipients) {
			d.Recipients, d.DSN = recipients[:n+1], dsn[:n+1]
			if size := len(tableOctets(d.AMQPHeaders())); size <= MaxTable {
				r.Fatalf("%d recipients make a table of only %d octets, but Fit said %d", n+1, size, n)
			}
		}
	})
}
