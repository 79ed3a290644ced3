package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes"
	"lsmtpd/routes/address"
	"lsmtpd/routes/config"

	"github.com/google/uuid"
)

func TestTheTraceFieldNamesWhoCameAndTheRecipientOnlyIfThereIsOne(t *testing.T) {
	id := uuid.MustParse("cf4c844f-a317-44f7-97a3-0aaa5be372e3")
	at := time.Date(2026, 11, 24, 3, 4, 5, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		name, ip, helo string
		to             []string
		want           string
	}{
		{"one recipient", "192.0.2.1", "client.example", []string{"a@b.example"},
			"Received: from client.example ([192.0.2.1])\r\n\tby mx.example with ESMTP id cf4c844f-a317-44f7-97a3-0aaa5be372e3\r\n\tfor <a@b.example>;\r\n\tTue, 24 Nov 2026 03:04:05 +0100\r\n"},
		{"two recipients, IPv6", "2001:db8::1", "[IPv6:2001:db8::1]", []string{"a@b.example", "c@d.example"},
			"Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\tby mx.example with ESMTP id cf4c844f-a317-44f7-97a3-0aaa5be372e3;\r\n\tTue, 24 Nov 2026 03:04:05 +0100\r\n"},
		{"a name that would be more than a name", "192.0.2.1", "x)(by;evil\"ü", []string{"a@b.example"},
			"Received: from x??by?evil?? ([192.0.2.1])\r\n\tby mx.example with ESMTP id cf4c844f-a317-44f7-97a3-0aaa5be372e3\r\n\tfor <a@b.example>;\r\n\tTue, 24 Nov 2026 03:04:05 +0100\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tx := &transaction{
				listener: &listener{Listener: &routes.Listener{Listener: &config.Listener{Hostname: "mx.example"}}},
				client:   &smtp.Client{Protocol: "ESMTP"},
				envelope: &mail.Envelope{ID: id, ReceivedAt: at, ClientIP: netip.MustParseAddr(c.ip), Helo: c.helo},
				taken:    make([]taken, len(c.to)),
			}
			var err error
			if tx.only, err = address.Parse(c.to[0]); err != nil {
				t.Fatal(err)
			}
			if got := string(tx.received()); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			for _, line := range strings.Split(string(tx.received()), "\r\n") {
				if strings.ContainsAny(line, "\r\n") || len(line) > 998 {
					t.Errorf("bad line %q", line)
				}
			}
		})
	}
}
