package mail

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"lsmtpd/gateway/memory"
	"lsmtpd/routes/address"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func contentOf(t testing.TB, octets []byte) *memory.Content {
	c := memory.NewContent(nil, len(octets), nil)
	c.Extend(copy(c.Room(), octets))
	t.Cleanup(c.Release)
	return c
}

func sample(t testing.TB, format, octets string) *Delivery {
	return &Delivery{
		ID: uuid.MustParse("cf4c844f-a317-44f7-97a3-0aaa5be372e3"),
		Envelope: &Envelope{
			ID:         uuid.MustParse("0b5d6a1e-7d1a-4a57-8f4e-5f0a6f1c9d22"),
			Listener:   "inbound",
			ReceivedAt: time.Date(2025, 9, 24, 1, 18, 51, 477629045, time.FixedZone("", 2*60*60)),
			ClientIP:   netip.MustParseAddr("192.0.2.7"),
			Helo:       "client.example",
			User:       "app",
			TLS:        "TLS1.3 TLS_AES_128_GCM_SHA256",
			Sender:     address.Address{Local: "from", Domain: "example.org"},
			Size:       int64(len(octets)),
		},
		Recipients: []address.Address{{Local: "admin", Domain: "example.org"}, {Local: `with "quotes" <&>`, Domain: "example.org"}},
		Exchange:   "lsmtp",
		RoutingKey: "mail.example.org",
		Format:     format,
		Headers:    map[string]string{"tenant": "a"},
		Content:    contentOf(t, []byte(octets)),
	}
}

func TestJSON_payload_is_written_as_LSMTPD_wrote_it_and_more_keys_after_that(t *testing.T) {
	nobody := sample(t, JSON, "x\r\n")
	nobody.Envelope = &Envelope{ID: nobody.ID, Listener: "unix", ReceivedAt: time.Unix(0, 0), Size: 3}
	damaged := sample(t, JSON, "x\r\n")
	damaged.Envelope.Helo = "a\xffb\x00\"\\"
	damaged.Envelope.ClientIP = netip.MustParseAddr(`fe80::1%a"b`)
	damaged.Recipients = []address.Address{{Local: "a\xff", Domain: "example.org"}}
	for name, d := range map[string]*Delivery{
		"text":    sample(t, JSON, "Subject: Grüße <b>&amp;</b>\r\n\r\n\x00\x01\x1f\b\f\t\x7f\"\\/\u2028\r\n"),
		"base64":  sample(t, JSON, "Subject: Gr\xfc\xdfe\r\n\r\n"),
		"empty":   sample(t, JSON, ""),
		"nobody":  nobody,
		"damaged": damaged,
	} {
		t.Run(name, func(t *testing.T) {
			got := d.AppendPayload(nil)
			if int64(len(got)) != d.Size() {
				t.Errorf("Size() = %d, the payload has %d octets", d.Size(), len(got))
			}
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("payload\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestJSON_payload_begins_with_the_six_keys_in_LSMTPDs_order(t *testing.T) {
	var got []string
	dec := json.NewDecoder(bytes.NewReader(sample(t, JSON, "\xff").AppendPayload(nil)))
	_, _ = dec.Token()
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, key.(string))
		var value any
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	want := "timestamp message_id client_address recipients email_content sender mail_id listener client_ip user tls size encoding"
	if strings.Join(got, " ") != want {
		t.Errorf("keys %s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestRaw_payload_is_the_mail_itself(t *testing.T) {
	d := sample(t, Raw, "a\xff\r\n")
	payload, pooled := d.Payload()
	if pooled || &payload[0] != &d.Content.Octets()[0] {
		t.Error("Payload copied the mail")
	}
	if got := d.AppendPayload(nil); string(got) != "a\xff\r\n" || d.Size() != 4 {
		t.Errorf("payload %q, Size %d", got, d.Size())
	}
}

func TestEncoded_delivery_publishes_its_content_as_it_is(t *testing.T) {
	d := sample(t, JSON, `{"any":"thing"}`)
	d.Encoded = true
	payload, pooled := d.Payload()
	if pooled || string(payload) != `{"any":"thing"}` || d.Size() != int64(len(payload)) || string(d.AppendPayload(nil)) != string(payload) {
		t.Errorf("payload %q, Size %d", payload, d.Size())
	}
}

func TestPayload_in_JSON_fills_exactly_one_pooled_buffer(t *testing.T) {
	d := sample(t, JSON, strings.Repeat("line\r\n", 10000))
	payload, pooled := d.Payload()
	if !pooled || int64(len(payload)) != d.Size() || !bytes.Equal(payload, d.AppendPayload(nil)) {
		t.Errorf("pooled %v, %d octets, Size %d", pooled, len(payload), d.Size())
	}
	memory.Recycle(payload)
}

// someOctets draws mail: often lines of text, sometimes anything at all.
func someOctets() *rapid.Generator[[]byte] {
	text := rapid.Map(rapid.SliceOf(rapid.OneOf(
		rapid.StringN(0, 30, -1),
		rapid.SampledFrom([]string{"\r\n", "\"", "\\", "\x00", "\x1f", " ", "\x7f", "é", "\u2028", "\U0001F4E7", "plain ASCII text of some length"}),
	)), func(parts []string) []byte { return []byte(strings.Join(parts, "")) })
	return rapid.OneOf(text, rapid.SliceOf(rapid.Byte()))
}

func TestJSON_payload_read_by_encoding_json_gives_back_every_octet(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		octets := someOctets().Draw(r, "mail")
		d := sample(t, JSON, string(octets))
		d.Envelope.Helo = rapid.String().Draw(r, "helo")
		d.Envelope.User = string(rapid.SliceOf(rapid.Byte()).Draw(r, "user"))
		checkPayload(r, d, octets)
	})
}

func FuzzJSON_payload(f *testing.F) {
	f.Add([]byte("Subject: x\r\n\r\nbody\r\n"), "client.example")
	f.Add([]byte("\xff\x00\""), "\xff")
	f.Fuzz(func(t *testing.T, octets []byte, helo string) {
		d := sample(t, JSON, string(octets))
		d.Envelope.Helo = helo
		checkPayload(t, d, octets)
	})
}

// checkPayload holds d's payload against encoding/json and against Decode.
func checkPayload(t interface {
	Helper()
	Fatalf(string, ...any)
}, d *Delivery, octets []byte) {
	t.Helper()
	size := d.Size()
	payload := d.AppendPayload(nil)
	if int64(len(payload)) != size {
		t.Fatalf("Size() = %d, the payload has %d octets", size, len(payload))
	}
	if !utf8.Valid(payload) {
		t.Fatalf("payload is not UTF-8: %q", payload)
	}
	var read struct {
		EmailContent  string `json:"email_content"`
		Encoding      string `json:"encoding"`
		ClientAddress string `json:"client_address"`
	}
	if err := json.Unmarshal(payload, &read); err != nil {
		t.Fatalf("%v in %s", err, payload)
	}
	got := []byte(read.EmailContent)
	if read.Encoding == "base64" {
		got, _ = base64.StdEncoding.DecodeString(read.EmailContent)
	}
	if !bytes.Equal(got, octets) || (read.Encoding == "base64") == utf8.Valid(octets) {
		t.Fatalf("mail %q came back as %q, encoding %q", octets, got, read.Encoding)
	}
	if want := strings.ToValidUTF8(d.Envelope.Helo, "\uFFFD"); read.ClientAddress != want {
		t.Fatalf("client_address %q came back as %q", want, read.ClientAddress)
	}
	back, err := Decode(payload)
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	defer back.Content.Release()
	if !bytes.Equal(back.Content.Octets(), octets) {
		t.Fatalf("mail %q was decoded as %q", octets, back.Content.Octets())
	}
}

func TestPayload_is_written_without_allocating_where_there_is_room(t *testing.T) {
	for _, octets := range []string{strings.Repeat("some text\r\n", 1000), strings.Repeat("\xff", 10000)} {
		d := sample(t, JSON, octets)
		b := make([]byte, 0, d.Size())
		if n := testing.AllocsPerRun(100, func() { b = d.AppendPayload(b[:0]) }); n != 0 {
			t.Errorf("AppendPayload: %v allocations", n)
		}
		if n := testing.AllocsPerRun(100, func() { d.measured.Store(0); d.Size() }); n != 0 {
			t.Errorf("Size: %v allocations", n)
		}
	}
}

// pieces is what was written, and the longest piece of it.
type pieces struct {
	octets  []byte
	longest int
	room    int // 0: no limit
}

func (p *pieces) Write(b []byte) (int, error) {
	if p.longest = max(p.longest, len(b)); p.room > 0 && len(p.octets)+len(b) > p.room {
		return 0, errFull
	}
	p.octets = append(p.octets, b...)
	return len(b), nil
}

var errFull = errors.New("full")

func TestJSON_is_the_same_written_in_pieces_as_at_once(t *testing.T) {
	const room = 64 << 10
	rapid.Check(t, func(r *rapid.T) {
		unit := rapid.SampledFrom([]string{"text\r\n", "\x00", "\"", "\xff", "é", "a\xffb"}).Draw(r, "unit")
		d := sample(t, rapid.SampledFrom([]string{JSON, Raw}).Draw(r, "format"), strings.Repeat(unit, rapid.IntRange(0, 200_000/len(unit)).Draw(r, "n")))
		d.Envelope.Helo = strings.Repeat("\x01", rapid.IntRange(0, 30_000).Draw(r, "helo"))
		d.Encoded = rapid.Bool().Draw(r, "encoded")
		before := rapid.IntRange(0, room).Draw(r, "before")
		b := bytes.Repeat([]byte("-"), room)[:before]
		want := d.AppendJSON(bytes.Clone(b))
		var got pieces
		if err := d.WriteJSON(&got, b); err != nil || !bytes.Equal(got.octets, want) {
			r.Fatalf("%d octets were written, want %d; error %v", len(got.octets), len(want), err)
		}
		if got.longest > room {
			r.Fatalf("a piece of %d octets", got.longest)
		}
	})
}

func TestJSON_that_cannot_be_written_is_told_of(t *testing.T) {
	d := sample(t, JSON, strings.Repeat("x", 300_000))
	got := pieces{room: 100_000}
	if err := d.WriteJSON(&got, make([]byte, 0, 64<<10)); err != errFull {
		t.Errorf("error %v", err)
	}
}
