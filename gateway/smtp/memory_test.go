package smtp_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/smtp"
)

// held are settings with a budget.
func held(total int64) (*smtp.Settings, *memory.Budget) {
	budget := memory.NewBudget(total)
	s := rated()
	s.SizeLimit, s.Memory = 1<<20, budget.Share(0)
	return s, budget
}

func TestMemory_is_waited_for_before_the_content(t *testing.T) {
	const told = "452 4.3.1 Too much mail at once, try again later"
	for name, test := range map[string]struct {
		gives time.Duration // after which the other ends
		want  smtptest.Reply
		after time.Duration
	}{
		"in vain":     {time.Hour, told, 5 * time.Second},
		"not in vain": {3 * time.Second, "354 End data with <CR><LF>.<CR><LF>", 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			pinned, budget := held(100_000)
			bubble(t, pinned, &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
				hold, err := pinned.Memory.Hold(t.Context(), 90_000)
				if err != nil {
					t.Fatal(err)
				}
				other := time.AfterFunc(test.gives, hold.Release)
				begin(t, c, mailCommand, rcptCommand)
				start := time.Now()
				if r := c.Do("DATA"); r != test.want || time.Since(start) != test.after {
					t.Errorf("%q after %v, want %q after %v", r, time.Since(start), test.want, test.after)
				}
				if other.Stop() {
					hold.Release()
				}
				c.Close()
				s.wait()
				if n := budget.Used(); n != 0 {
					t.Errorf("%d octets are held when all is over", n)
				}
			})
		})
	}
}

// exhaust holds all but 80,000 octets of a budget of a million, as an older message, and returns how it ends.
func exhaust(t *testing.T, pinned *smtp.Settings) (end func()) {
	hold, err := pinned.Memory.Hold(t.Context(), 920_000)
	if err != nil {
		t.Fatal(err)
	}
	return hold.Release
}

func TestMemory_that_is_refused_inside_the_content_drains_the_rest(t *testing.T) {
	pinned, budget := held(1_000_000)
	o := &owner{}
	bubble(t, pinned, o, func(t *testing.T, c *smtptest.Conn, s *running) {
		end := exhaust(t, pinned)
		begin(t, c, mailCommand, rcptCommand, "DATA")
		start := time.Now()
		c.Send(strings.Repeat("1234567\r\n", 20_000))
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("it was waited for for %v", took)
		}
		if n := budget.Used(); n > 930_000 {
			t.Errorf("%d octets are held while the rest is thrown away", n)
		}
		if r := c.Do("."); r != "452 4.3.1 Too much mail at once, try again later" {
			t.Errorf("%q", r)
		}
		end()
		if r := c.SendMail("a@client.example", []string{"b@mx.example"}, strings.Repeat("x", 180_000)); r.Code() != 250 {
			t.Errorf("the next mail: %q", r)
		}
		c.Close()
		s.wait()
		if n := budget.Used(); n != 0 || len(o.accepted()) != 1 {
			t.Errorf("%d octets are held when all is over, %d mails", n, len(o.accepted()))
		}
	})
}

func TestMemory_that_does_not_come_back_ends_a_session_that_is_drained(t *testing.T) {
	pinned, _ := held(1_000_000)
	bubble(t, pinned, &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		defer exhaust(t, pinned)()
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send(strings.Repeat("1234567\r\n", 20_000))
		wantAfter(t, c, time.Minute, "452 4.3.1 Too much mail at once, try again later")
		wantErr(t, s, smtp.ErrNoMemory)
	})
}

func TestThe_clocks_of_a_client_stand_still_while_we_wait_for_memory(t *testing.T) {
	pinned, _ := held(1_000_000)
	pinned.Timeout = 4 * time.Second // shorter than the wait
	pinned.MinRate = 10_000
	o := &owner{}
	bubble(t, pinned, o, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		// This message is the older one: it waits as long as its timeout, not five seconds.
		hold, err := pinned.Memory.Hold(t.Context(), 920_000)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(3900*time.Millisecond, hold.Release)
		c.Send(strings.Repeat("1234567\r\n", 20_000))
		time.Sleep(3900 * time.Millisecond)
		if r := c.Do("."); r.Code() != 250 {
			t.Errorf("%q", r)
		}
	})
}

func TestThe_oldest_message_waits_for_memory_beyond_five_seconds(t *testing.T) {
	pinned, _ := held(1_000_000)
	bubble(t, pinned, &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		defer exhaust(t, pinned)()
		start := time.Now()
		c.Patience = time.Hour
		c.Send(strings.Repeat("1234567\r\n", 20_000))
		if took := time.Since(start); took != timeout {
			t.Errorf("it was waited for for %v", took)
		}
	})
}

func TestWhat_a_mail_did_not_need_is_given_back_before_it_is_handed_over(t *testing.T) {
	pinned, budget := held(2_000_000)
	var during int64
	o := &owner{during: func(context.Context) { during = budget.Used() }}
	bubble(t, pinned, o, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand+" SIZE=900000", rcptCommand, "DATA")
		if n := budget.Used(); n < 900_000 {
			t.Errorf("%d octets are reserved", n)
		}
		if r := c.Do("a mail\r\n."); r.Code() != 250 || during > 300_000 {
			t.Errorf("%q, %d octets were held", r, during)
		}
		synctest.Wait()
		if n := budget.Used(); n != 0 {
			t.Errorf("%d octets are held when all is over", n)
		}
	})
}
