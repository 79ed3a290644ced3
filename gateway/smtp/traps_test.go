package smtp_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
)

// The traps that smtp.md counts, but for those that are other rooms': 7 (PROXY) and 8 (tickets) are the listener's. 2 is
// TestEvery_situation_has_its_reply, 4 TestOnly_a_dot_between_CRLFs_ends_the_data_wherever_it_is_cut and
// TestA_trap_on_any_boundary_of_the_buffer_is_seen, 9 TestReplies_to_a_batch_leave_in_one_write, 11 stands in
// TestErrors_cost_time_and_then_the_session, 12 in the table.

// trap talks to a session over TCP, and returns its owner when the session is over.
func trap(t *testing.T, pinned *smtp.Settings, f func(c *smtptest.Conn)) *owner {
	t.Helper()
	o := &owner{lmtp: pinned.LMTP}
	client, server := tcpPair(t)
	s := serve(t, server, pinned, o)
	c := smtptest.New(t, client)
	f(c)
	c.Close()
	s.wait()
	if begun, closed := o.transactions(); begun != closed {
		t.Errorf("%d transactions were begun and %d closed", begun, closed)
	}
	return o
}

func TestTrap_1_half_a_line_is_never_run(t *testing.T) {
	for name, leave := range map[string]func(c *smtptest.Conn){
		"half-close": func(c *smtptest.Conn) {
			c.CloseWrite()
			c.WantEnd()
		},
		"reset": func(c *smtptest.Conn) {
			c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
		},
		"timeout": func(c *smtptest.Conn) { c.Want("421 4.4.2 Timeout") },
	} {
		t.Run(name, func(t *testing.T) {
			pinned := settings()
			if name == "timeout" {
				pinned.Timeout = 50 * time.Millisecond
			}
			o := trap(t, pinned, func(c *smtptest.Conn) {
				begin(t, c, mailCommand)
				c.Send("RCPT TO:<refused@mx.example>\r")
				leave(c)
			})
			for _, r := range o.refused {
				if strings.HasPrefix(r, "RCPT") {
					t.Errorf("it was run: %s", r)
				}
			}
		})
	}
}

func TestTrap_3_no_way_out_of_a_mail_leaves_a_recipient_behind(t *testing.T) {
	large := strings.Repeat("x", 1200)
	for name, ways := range map[string][]string{
		"552 after DATA":             {"DATA", large + "\r\n."},
		"554 after DATA":             {"DATA", "."},
		"550 after DATA":             {"DATA", "a\nb\r\n."},
		"451 after DATA":             {"RCPT TO:<defer@mx.example>", "DATA", "x\r\n."},
		"250 after DATA":             {"DATA", "x\r\n."},
		"552 at BDAT, LAST":          {"BDAT 1200\r\n" + large + "BDAT 0 LAST"},
		"552 at BDAT, RSET":          {"BDAT 1200\r\n" + large + "RSET"},
		"552 at BDAT LAST":           {"BDAT 1202 LAST\r\n" + large},
		"554 at BDAT LAST":           {"BDAT 0 LAST"},
		"250 at BDAT LAST":           {"BDAT 3 LAST\r\nx"},
		"RSET":                       {"RSET"},
		"RSET between chunks":        {"BDAT 1\r\nxRSET"},
		"EHLO":                       {"EHLO client.example"},
		"EHLO between chunks":        {"BDAT 1\r\nxEHLO client.example"},
		"HELO":                       {"HELO client.example"},
		"452 at DATA":                {"RSET", mailCommand, "RCPT TO:<nobegin@mx.example>", "DATA"},
		"503 at BDAT without a RCPT": {"RSET", mailCommand, "BDAT 1 LAST\r\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			pinned := settings()
			pinned.SizeLimit = 1000
			trap(t, pinned, func(c *smtptest.Conn) {
				begin(t, c, mailCommand, "RCPT TO:<other-tenant@mx.example>")
				c.Send(strings.Join(ways, "\r\n") + "\r\n")
				c.Send("VRFY end\r\n")
				for c.Reply().Code() != 252 {
				}
				if r := c.Do(rcptCommand); r.Code() != 503 {
					t.Errorf("RCPT behind it: %q", r)
				}
				if r := c.SendMail("a@client.example", []string{"b@mx.example"}, "next"); r.Code() != 250 {
					t.Errorf("the next mail: %q", r)
				}
			})
		})
	}
	t.Run("STARTTLS", func(t *testing.T) {
		o := trap(t, tlsSettings(t), func(c *smtptest.Conn) {
			begin(t, c, mailCommand, "RCPT TO:<other-tenant@mx.example>")
			c.Do("STARTTLS")
			if err := c.StartTLS(unverified()); err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{"EHLO client.example", mailCommand, rcptCommand, "DATA", "x\r\n."} {
				c.Do(command)
			}
		})
		if m := o.accepted(); len(m) != 1 || len(m[0].to) != 1 || m[0].to[0].Local != "b" {
			t.Errorf("what arrived: %+v", m)
		}
	})
}

func TestTrap_3_the_next_mail_has_its_own_recipients_only(t *testing.T) {
	o := trap(t, settings(), func(c *smtptest.Conn) {
		hello(t, c)
		for n := range 3 {
			c.SendMail("a@client.example", []string{fmt.Sprintf("b%d@mx.example", n)}, "x")
			c.SendMail("a@client.example", []string{"defer@mx.example"}, "x")
		}
	})
	for n, m := range o.accepted() {
		if len(m.to) != 1 || m.to[0].Local != fmt.Sprintf("b%d", n) {
			t.Errorf("mail %d is for %v", n, m.to)
		}
	}
}

func TestTrap_5_what_a_refused_chunk_carries_is_not_run(t *testing.T) {
	const payload = "QUIT\r\n"
	o := trap(t, settings(), func(c *smtptest.Conn) {
		hello(t, c)
		for _, before := range []string{"", mailCommand + "\r\n", "RSET\r\n" + mailCommand + "\r\nRCPT TO:<refused@mx.example>\r\n"} {
			c.Send(before + fmt.Sprintf("BDAT %d\r\n%sBDAT %d\r\n%sVRFY end\r\n", len(payload), payload, len(payload)*1000, strings.Repeat(payload, 1000)))
			for {
				r := c.Reply()
				if r.Code() == 252 {
					break
				}
				if r.Code() == 221 || r.Code() == 500 {
					t.Fatalf("behind %q: %q", before, r)
				}
			}
		}
	})
	if len(o.accepted()) != 0 {
		t.Error("something was accepted")
	}
}

func TestTrap_5_a_line_of_a_hundred_thousand_octets_is_a_chunk_like_another(t *testing.T) {
	line := strings.Repeat("x", 100<<10)
	o := trap(t, settings(), func(c *smtptest.Conn) {
		begin(t, c, mailCommand, rcptCommand)
		c.Send(fmt.Sprintf("BDAT 0\r\nBDAT %d\r\n%sBDAT 0\r\nBDAT 0 LAST\r\n", len(line), line))
		for range 3 {
			c.Want("250 2.0.0 Ok")
		}
		c.Want("250 2.0.0 Ok: queued as 1")
	})
	if m := o.accepted(); len(m) != 1 || m[0].content != line {
		t.Errorf("%d mails", len(m))
	}
}

func TestTrap_6_an_AUTH_line_too_long_is_not_continued_as_commands(t *testing.T) {
	for name, octets := range map[string]string{
		"the command":  "AUTH PLAIN ",
		"the exchange": "AUTH PLAIN\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			pinned := settings()
			pinned.Auth, pinned.AuthPlaintext = true, true
			o := trap(t, pinned, func(c *smtptest.Conn) {
				hello(t, c)
				c.Send(octets + strings.Repeat("QUFB", 4000) + "\r\n" + mailCommand + "\r\n" + rcptCommand + "\r\n")
				r := c.Reply()
				if r == "334 " {
					r = c.Reply()
				}
				if r != "500 5.5.2 Line too long" {
					t.Errorf("%q", r)
				}
				c.WantEnd()
			})
			if begun, _ := o.transactions(); begun != 0 {
				t.Error("what came behind it was run")
			}
		})
	}
}

func TestTrap_10_what_a_client_says_comes_back_in_no_reply(t *testing.T) {
	const mark = "xyzzy"
	pinned := settings()
	pinned.Auth, pinned.AuthPlaintext = true, true
	trap(t, pinned, func(c *smtptest.Conn) {
		c.Reply()
		for _, command := range []string{
			"EHLO " + mark, "EHLO <" + mark + ">", mark, "VRFY " + mark, "HELP " + mark, "NOOP " + mark, "RSET " + mark,
			"AUTH " + mark, "AUTH PLAIN " + mark, "MAIL FROM:<" + mark + ">", "MAIL FROM:<a@b> " + mark + "=" + mark,
			"MAIL FROM:<" + mark + "@client.example> ENVID=" + mark, "RCPT TO:<" + mark + ">", "RCPT TO:<refused@" + mark + ">",
			"RCPT TO:<" + mark + "@mx.example> ORCPT=rfc822;" + mark, "BDAT " + mark,
		} {
			if r := c.Do(command); strings.Contains(string(r), mark) {
				t.Errorf("%s: %q", command, r)
			}
		}
	})
}

func TestTrap_13_DSN_parameters_go_with_the_mail_as_they_were_sent(t *testing.T) {
	o := trap(t, settings(), func(c *smtptest.Conn) {
		begin(t, c, mailCommand+" ret=hdrs ENVID=QQ314159+2B+20x",
			"RCPT TO:<b@mx.example> notify=Success,DELAY ORCPT=rfc822;Bob+2Bx@example.com",
			"RCPT TO:<c@mx.example> NOTIFY=never", "RCPT TO:<d@mx.example>", "DATA", "x\r\n.")
		for _, command := range []string{mailCommand + " SMTPUTF8", `RCPT TO:<e@mx.example> ORCPT=utf-8;jos\x{e9}@example.com`,
			"RCPT TO:<f@mx.example> ORCPT=UTF-8;josé@example.com", "DATA", "x\r\n."} {
			if r := c.Do(command); r.Code() >= 400 {
				t.Errorf("%s: %q", command, r)
			}
		}
		c.Do(mailCommand)
		for _, bad := range []string{
			"rfc822;a+00b@example.com", "rfc822;a+0", "rfc822;a+0Ab", `utf-8;a\x{0}b`, `utf-8;a\x{d800}`, `utf-8;\x{}`, `utf-8;\x{110000}`,
			`utf-8;a\b`, "utf-8;josé@example.com", "rfc822;josé", "r@c;x", "rfc822;" + strings.Repeat("x", 500),
		} {
			if r := c.Do("RCPT TO:<b@mx.example> ORCPT=" + bad); r.Code() != 501 {
				t.Errorf("%s: %q", bad, r)
			}
			c.Do("RSET")
			c.SendMail("a@client.example", []string{"b@mx.example"}, "x") // makes up for the error
			c.Do(mailCommand)
		}
	})
	m := o.accepted()
	if m[0].params.Ret != "HDRS" || m[0].params.EnvID != "QQ314159+2B+20x" {
		t.Errorf("of the mail: %+v", m[0].params)
	}
	want := []smtp.RcptParams{{Notify: "SUCCESS,DELAY", ORcpt: "rfc822;Bob+2Bx@example.com"}, {Notify: "NEVER"}, {}}
	for i := range want {
		if m[0].dsn[i] != want[i] {
			t.Errorf("of recipient %d: %+v, want %+v", i, m[0].dsn[i], want[i])
		}
	}
	if m[1].dsn[0].ORcpt != `utf-8;jos\x{e9}@example.com` || m[1].dsn[1].ORcpt != "UTF-8;josé@example.com" {
		t.Errorf("with SMTPUTF8: %+v", m[1].dsn)
	}
}

func TestTrap_14_there_is_one_reply_for_all_recipients_but_in_LMTP(t *testing.T) {
	for _, lmtp := range []bool{false, true} {
		pinned := settings()
		pinned.LMTP = lmtp
		trap(t, pinned, func(c *smtptest.Conn) {
			c.Reply()
			c.Do("EHLO client.example")
			c.Do("LHLO client.example")
			for _, command := range []string{mailCommand, "RCPT TO:<defer@mx.example>", rcptCommand, "DATA"} {
				c.Do(command)
			}
			c.Send("x\r\n.\r\nNOOP\r\n")
			c.Want("451 4.3.0 Later")
			if lmtp {
				c.Want("250 2.0.0 Ok: queued as 1")
			}
			c.Want("250 2.0.0 Ok")
		})
	}
}
