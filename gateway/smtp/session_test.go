package smtp_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
)

const timeout = 3 * time.Minute

// talk runs f in a bubble, where time passes only while everybody waits: with a client before its greeting, and the session.
func talk(t *testing.T, name string, o *owner, f func(t *testing.T, c *smtptest.Conn, s *running)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			settings := &smtp.Settings{Hostname: "mx.example", Timeout: timeout, SizeLimit: 1000}
			f(t, smtptest.New(t, client), serve(t, server, settings, o))
		})
	})
}

// hello gets past the greeting and EHLO.
func hello(t *testing.T, c *smtptest.Conn) {
	t.Helper()
	if r, err := c.Hello(); err != nil || r.Code() != 250 {
		t.Fatalf("hello: %q, %v", r, err)
	}
}

// begin gets behind the reply to DATA, or to what stands before it in the list.
func begin(t *testing.T, c *smtptest.Conn, commands ...string) {
	t.Helper()
	hello(t, c)
	for _, command := range commands {
		if r := c.Do(command); r.Code() >= 400 {
			t.Fatalf("%s: %q", command, r)
		}
	}
}

const (
	mailCommand = "MAIL FROM:<a@client.example>"
	rcptCommand = "RCPT TO:<b@mx.example>"
)

// wantAfter reads the session's last reply, and checks when it came.
func wantAfter(t *testing.T, c *smtptest.Conn, d time.Duration, want smtptest.Reply) {
	t.Helper()
	start := time.Now()
	c.Patience = time.Hour
	c.Want(want)
	if took := time.Since(start); took != d {
		t.Errorf("%q came after %v, want %v", want, took, d)
	}
	c.WantEnd()
}

// wantErr waits for the session's end, and checks why it was.
func wantErr(t *testing.T, s *running, want error) {
	t.Helper()
	if err := s.wait(); !errors.Is(err, want) {
		t.Errorf("Serve returned %v, want %v", err, want)
	}
}

func TestA_silent_client_is_told_so_and_let_go(t *testing.T) {
	const told = "421 4.4.2 Timeout"
	talk(t, "after the greeting", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		c.Reply()
		wantAfter(t, c, timeout, told)
		wantErr(t, s, smtp.ErrTimeout)
	})
	talk(t, "inside a line", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand)
		c.Send("RCPT TO:<b@mx.example>")
		wantAfter(t, c, timeout, told)
		wantErr(t, s, smtp.ErrTimeout)
	})
	o := &owner{}
	talk(t, "inside DATA", o, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send("half a mail\r\n.")
		wantAfter(t, c, timeout, told)
		wantErr(t, s, smtp.ErrTimeout)
		if len(o.accepted()) != 0 {
			t.Error("half a mail was accepted")
		}
	})
	talk(t, "and not one that says something now and then", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		for range 5 {
			time.Sleep(timeout - time.Second)
			c.Send("NO")
			time.Sleep(timeout - time.Second)
			c.Send("OP\r\n")
			c.Want("250 2.0.0 Ok")
		}
		wantAfter(t, c, timeout, told)
		wantErr(t, s, smtp.ErrTimeout)
	})
	talk(t, "but one that never comes to the end of a line", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		start := time.Now()
		for time.Since(start) < timeout-time.Second {
			c.Send("N")
			time.Sleep(time.Second)
		}
		wantAfter(t, c, timeout-time.Since(start), told)
		wantErr(t, s, smtp.ErrTimeout)
	})
	slow := &owner{during: func(context.Context) { time.Sleep(timeout + time.Minute) }}
	talk(t, "and not one that waited for us", slow, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		c.Patience = time.Hour
		if r := c.SendMail("a@client.example", []string{"b@mx.example"}, "slow"); r.Code() != 250 {
			t.Errorf("after a long wait: %q", r)
		}
		wantAfter(t, c, timeout, told)
		wantErr(t, s, smtp.ErrTimeout)
	})
}

func TestA_client_that_does_not_read_is_let_go(t *testing.T) {
	talk(t, "its session ends", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		start := time.Now()
		c.Send("NOOP\r\n")
		wantErr(t, s, smtp.ErrTimeout)
		if took := time.Since(start); took > timeout {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWhat_comes_behind_the_limit_is_read_for_a_minute(t *testing.T) {
	const told = "552 5.3.4 Message exceeds the size limit"
	tooMuch := strings.Repeat("x", 1001)
	talk(t, "from a slow client", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send(tooMuch)
		start := time.Now()
		for time.Since(start) < 59*time.Second {
			c.Send("x")
			time.Sleep(time.Second)
		}
		wantAfter(t, c, time.Minute-time.Since(start), told)
		wantErr(t, s, smtp.ErrTooLarge)
	})
	talk(t, "and the next mail has all the time again", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send(tooMuch)
		time.Sleep(50 * time.Second)
		if r := c.Do("\r\n."); r != told {
			t.Errorf("after the end: %q", r)
		}
		for _, command := range []string{mailCommand, rcptCommand, "DATA"} {
			c.Do(command)
		}
		time.Sleep(timeout - time.Second)
		if r := c.Do("late\r\n."); r.Code() != 250 {
			t.Errorf("the next mail: %q", r)
		}
	})
}

func TestErrors_cost_time_and_then_the_session(t *testing.T) {
	const nope = "500 5.5.2 Command not recognized"
	talk(t, "a second each after ten", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		for n := 1; n < 20; n++ {
			start, want := time.Now(), time.Duration(0)
			if n > 10 {
				want = time.Second
			}
			if r := c.Do("NOPE"); r != nope || time.Since(start) != want {
				t.Errorf("error %d: %q after %v, want %v", n, r, time.Since(start), want)
			}
		}
		c.Send("NOPE\r\n")
		wantAfter(t, c, 0, "421 4.7.0 Too many errors")
		wantErr(t, s, smtp.ErrTooManyErrors)
	})
	talk(t, "an accepted mail makes up for them", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		start := time.Now()
		for range 5 {
			for range 10 {
				c.Do("NOPE")
			}
			c.SendMail("a@client.example", []string{"b@mx.example"}, "a mail")
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("50 errors between mails cost %v", took)
		}
	})
	talk(t, "refused recipients are none", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand)
		start := time.Now()
		for range 200 {
			c.Do("RCPT TO:<refused@mx.example>")
		}
		if r := c.Do(rcptCommand); r.Code() != 250 || time.Since(start) != 0 {
			t.Errorf("after 200 refused recipients: %q after %v", r, time.Since(start))
		}
	})
	talk(t, "malformed recipients are", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand)
		for range 19 {
			c.Do("RCPT TO:<>")
		}
		c.Send("RCPT TO:<>\r\n")
		wantAfter(t, c, 0, "421 4.7.0 Too many errors")
	})
	talk(t, "malformed recipients without a mail are", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		for range 19 {
			c.Do("RCPT garbage")
		}
		c.Send("RCPT garbage\r\n")
		wantAfter(t, c, 0, "421 4.7.0 Too many errors")
	})
	talk(t, "recipients without a mail are, after very many", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		start := time.Now()
		for range 1010 {
			c.Do(rcptCommand)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("1010 recipients without a mail cost %v", took)
		}
		for range 9 {
			c.Do(rcptCommand)
		}
		c.Send(rcptCommand + "\r\n")
		wantAfter(t, c, 0, "421 4.7.0 Too many errors")
	})
	talk(t, "a refused mail with its recipients is one", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		start := time.Now()
		c.SendMail("busy@client.example", slices.Repeat([]string{"b@mx.example"}, 100), "a mail")
		if took := time.Since(start); took != 0 {
			t.Errorf("100 recipients of a refused mail cost %v", took)
		}
	})
}

func TestA_hundred_commands_that_do_nothing_are_free(t *testing.T) {
	talk(t, "and each further one is an error", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		c.Reply()
		start := time.Now()
		for range 25 {
			for _, command := range []string{"NOOP", "RSET", "EHLO a", "VRFY b"} {
				c.Do(command)
			}
		}
		for range 10 {
			c.Do("NOOP")
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("110 commands cost %v", took)
		}
		for range 9 {
			c.Do("NOOP")
		}
		if took := time.Since(start); took != 9*time.Second {
			t.Errorf("9 more cost %v", took)
		}
		c.Send("NOOP\r\n")
		wantAfter(t, c, 0, "421 4.7.0 Too many errors")
	})
	talk(t, "but with a mail in between", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		start := time.Now()
		for range 3 {
			for range 90 {
				c.Do("NOOP")
			}
			c.SendMail("a@client.example", []string{"b@mx.example"}, "a mail")
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("270 commands between mails cost %v", took)
		}
	})
}

func TestA_client_that_is_not_admitted_has_ten_seconds(t *testing.T) {
	o := &owner{admit: smtp.Reply{Code: 554, Enhanced: "5.7.1", Text: "No"}}
	talk(t, "whatever it says", o, func(t *testing.T, c *smtptest.Conn, s *running) {
		c.Want("554 5.7.1 No")
		time.Sleep(9 * time.Second)
		c.Do("EHLO client.example")
		wantAfter(t, c, time.Second, "421 4.4.2 Timeout")
	})
}

func TestServe_tells_why_a_session_ended(t *testing.T) {
	talk(t, "QUIT is no error", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		c.Do("QUIT")
		wantErr(t, s, nil)
	})
	talk(t, "leaving between mails is none", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand)
		c.Close()
		wantErr(t, s, nil)
	})
	talk(t, "leaving inside a mail is one", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send("half a mail\r\n.\r")
		c.Close()
		wantErr(t, s, smtp.ErrLost)
	})
	talk(t, "a line too long", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		c.Send(strings.Repeat("x", 2048))
		c.Reply()
		wantErr(t, s, smtp.ErrLineTooLong)
	})
	talk(t, "a bare LF", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		c.Send("NOOP\n")
		c.Reply()
		wantErr(t, s, smtp.ErrBareLF)
	})
	talk(t, "another protocol", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		c.Reply()
		c.Send("GET /")
		c.Reply()
		wantErr(t, s, smtp.ErrForeign)
	})
	talk(t, "a panic, with its stack", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		c.Do("MAIL FROM:<panic@client.example>")
		e, ok := errors.AsType[*smtp.PanicError](s.wait())
		if !ok || !strings.Contains(string(e.Stack), "owner") || !strings.Contains(e.Error(), "asked for") {
			t.Errorf("Serve returned %v", s.err)
		}
	})
}

func TestThe_handler_is_told_of_every_refusal(t *testing.T) {
	o := &owner{}
	talk(t, "with its command", o, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		for _, command := range []string{"NOPE", "noop \x01", "data", "MAIL FROM:<>", "RCPT TO:<refused@mx.example>", "RCPT TO:<defer@mx.example>"} {
			c.Do(command)
		}
		c.Do("DATA")
		c.Do("a mail\r\n.")
		wantAfter(t, c, timeout, "421 4.4.2 Timeout")
		want := []string{" 500", " 500", "DATA 503", "RCPT 550", ". 451", " 421"}
		if !slices.Equal(o.refused, want) {
			t.Errorf("it was told %q, want %q", o.refused, want)
		}
	})
}

func TestA_transaction_knows_its_client_and_its_envelope(t *testing.T) {
	o := &owner{}
	talk(t, "mail by mail", o, func(t *testing.T, c *smtptest.Conn, s *running) {
		c.Reply()
		send := func(commands ...string) mail {
			t.Helper()
			for _, command := range append(commands, "DATA", "a mail\r\n.") {
				if r := c.Do(command); r.Code() >= 400 {
					t.Fatalf("%s: %q", command, r)
				}
			}
			mails := o.accepted()
			return mails[len(mails)-1]
		}
		m := send("HELO one.example", "MAIL FROM:<>", "RCPT TO:<POSTMASTER>", "RCPT TO:<@x.example:b@MX.example>")
		if m.client.Helo != "one.example" || m.client.Protocol != "SMTP" || !m.from.IsNull() ||
			m.to[0].String() != "postmaster@mx.example" || m.to[1].String() != "b@mx.example" || m.content != "a mail\r\n" {
			t.Errorf("after HELO: %+v", m)
		}
		m = send("EHLO two.example", "MAIL FROM:<é@client.example> SMTPUTF8 SIZE=7 BODY=8bitmime", rcptCommand)
		if m.client.Helo != "two.example" || m.client.Protocol != "UTF8SMTP" || m.from.Local != "é" ||
			m.params != (smtp.MailParams{Size: 7, Body: "8BITMIME", SMTPUTF8: true}) {
			t.Errorf("with SMTPUTF8: %+v", m)
		}
		m = send(mailCommand, rcptCommand)
		if m.client.Protocol != "ESMTP" || m.params != (smtp.MailParams{}) {
			t.Errorf("after it: %+v", m)
		}
	})
}

// counted counts the writes to a connection.
type counted struct {
	net.Conn
	writes *atomic.Int32
}

func (c counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestReplies_to_a_batch_leave_in_one_write(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		var writes atomic.Int32
		serve(t, counted{server, &writes}, &smtp.Settings{Hostname: "mx.example"}, &owner{})
		c := smtptest.New(t, client)
		hello(t, c)
		before := writes.Load()
		// A half command is no reason to send what is due in two writes, and none to keep it.
		c.Send(mailCommand + "\r\n" + rcptCommand + "\r\n" + rcptCommand + "\r\nDATA\r\nhalf a mai")
		for _, code := range []int{250, 250, 250, 354} {
			if r := c.Reply(); r.Code() != code {
				t.Errorf("%q, want %d", r, code)
			}
		}
		c.Send("l\r\n.\r\n" + mailCommand + "\r\nRSET\r\nNOO")
		for range 3 {
			c.Reply()
		}
		if n := writes.Load() - before; n != 2 {
			t.Errorf("two batches were answered in %d writes", n)
		}
	})
}
