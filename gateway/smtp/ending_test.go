package smtp_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
)

const drained = "421 4.3.2 Service not available, closing"

func TestDrain_waits_for_the_mail_under_way_and_for_nothing_else(t *testing.T) {
	talk(t, "an idle session ends at once", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		synctest.Wait()
		s.Drain()
		wantAfter(t, c, 0, drained)
		wantErr(t, s, nil)
	})
	talk(t, "half a line is not waited for", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		c.Send("NOO")
		s.Drain()
		wantAfter(t, c, 0, drained)
		wantErr(t, s, nil)
	})
	talk(t, "a mail gets its reply first", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand)
		s.Drain()
		synctest.Wait()
		c.Send("DATA\r\n")
		c.Want("354 End data with <CR><LF>.<CR><LF>")
		time.Sleep(timeout - time.Second)
		c.Send("a mail\r\n.\r\nNOOP\r\n")
		c.Want("250 2.0.0 Ok: queued as 1")
		wantAfter(t, c, 0, drained)
		wantErr(t, s, nil)
	})
}

func TestDrain_ends_the_session_behind_whatever_the_mail_came_to(t *testing.T) {
	talk(t, "a mail that is given up", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand)
		s.Drain()
		s.Drain()
		if r := c.Do("RSET"); r.Code() != 250 {
			t.Errorf("RSET: %q", r)
		}
		wantAfter(t, c, 0, drained)
		wantErr(t, s, nil)
	})
	talk(t, "a mail that falls silent, by the timeout", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand)
		s.Drain()
		wantAfter(t, c, timeout, "421 4.4.2 Timeout")
		wantErr(t, s, smtp.ErrTimeout)
	})
}

func TestDrain_need_not_wait_for_a_session_to_look(t *testing.T) {
	talk(t, "the delay after errors is cut short", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		for range 10 {
			c.Do("NOPE")
		}
		c.Send("NOPE\r\n")
		synctest.Wait()
		start := time.Now()
		s.Drain()
		c.Want("500 5.5.2 Command not recognized")
		if took := time.Since(start); took != 0 {
			t.Errorf("it lasted %v more", took)
		}
		wantAfter(t, c, 0, drained)
		wantErr(t, s, nil)
	})
	t.Run("a session that has not begun greets so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			s := smtp.NewSession(server, &smtp.Settings{Hostname: "mx.example"}, &owner{})
			s.Drain()
			done := make(chan error)
			go func() { done <- s.Serve(t.Context()) }()
			wantAfter(t, smtptest.New(t, client), 0, drained)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})
}

// halfClosing is a net.Pipe that can be closed for writing, though the other end does not see it.
type halfClosing struct{ net.Conn }

func (halfClosing) CloseWrite() error { return nil }

func TestA_last_reply_is_waited_with_for_a_second(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		s := serve(t, halfClosing{server}, &smtp.Settings{Hostname: "mx.example"}, &owner{})
		c := smtptest.New(t, client)
		c.Reply()
		start := time.Now()
		c.Do("QUIT")
		synctest.Wait()
		s.Drain()
		synctest.Wait()
		c.Send("whatever comes, also after Drain")
		wantErr(t, s, nil)
		if took := time.Since(start); took != time.Second {
			t.Errorf("it lasted %v", took)
		}
	})
}

func TestThe_end_of_the_context_cuts_the_connection(t *testing.T) {
	talk(t, "an idle session ends without a word", &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		hello(t, c)
		s.cut(errCut)
		wantErr(t, s, errCut)
		c.WantEnd()
	})
	inData := make(chan struct{})
	var cancelled atomic.Bool
	o := &owner{during: func(ctx context.Context) {
		close(inData)
		time.Sleep(time.Minute)
		cancelled.Store(ctx.Err() != nil)
	}}
	talk(t, "a mail that was handed over is waited for, and its reply is said", o, func(t *testing.T, c *smtptest.Conn, s *running) {
		inData = make(chan struct{})
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send("a mail\r\n.\r\n")
		<-inData
		s.cut(errCut)
		start := time.Now()
		time.Sleep(time.Minute - time.Second) // longer than a read of c's waits
		c.Want("250 2.0.0 Ok: queued as 1")
		c.WantEnd()
		wantErr(t, s, errCut)
		if took := time.Since(start); took != time.Minute || cancelled.Load() || len(o.accepted()) != 1 {
			t.Errorf("Serve returned after %v, context cancelled: %v, mails: %d", took, cancelled.Load(), len(o.accepted()))
		}
	})
	talk(t, "but no longer than a second for who does not take its reply", o, func(t *testing.T, c *smtptest.Conn, s *running) {
		inData = make(chan struct{})
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send("a mail\r\n.\r\n")
		<-inData
		s.cut(errCut)
		start := time.Now()
		wantErr(t, s, errCut)
		if took := time.Since(start); took != time.Minute+time.Second {
			t.Errorf("Serve returned after %v", took)
		}
	})
}
