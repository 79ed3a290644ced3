package smtp_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
)

// slowly sends octets in pieces, each after a wait, until the session has something to say.
func slowly(c *smtptest.Conn, octets string, piece int, wait time.Duration) {
	for octets != "" {
		time.Sleep(wait)
		n := min(piece, len(octets))
		if c.Client.Send(octets[:n]) != nil {
			return
		}
		octets = octets[n:]
	}
}

func rated() *smtp.Settings {
	return &smtp.Settings{Hostname: "mx.example", Timeout: timeout, MinRate: 100}
}

func TestA_slow_client_is_closed_whatever_it_is_slow_at(t *testing.T) {
	const told = "421 4.4.2 Too slow"
	body := strings.Repeat("x", 100_000)
	for name, begins := range map[string]string{
		"DATA":                         mailCommand + "\r\n" + rcptCommand + "\r\nDATA\r\n" + body,
		"a chunk":                      mailCommand + "\r\n" + rcptCommand + "\r\nBDAT 100000\r\n" + body,
		"one chunk after the other":    mailCommand + "\r\n" + rcptCommand + "\r\n" + strings.Repeat("BDAT 1\r\nx", 10_000),
		"a chunk without a recipient":  "BDAT 100000\r\n" + body,
		"a chunk behind a spoiled one": mailCommand + "\r\nBDAT 1\r\nxBDAT 100000\r\n" + body,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, rated(), &owner{}, func(t *testing.T, c *smtptest.Conn, s *running) {
				hello(t, c)
				start := time.Now()
				c.Patience = time.Hour
				var sender sync.WaitGroup
				sender.Go(func() { slowly(c, begins, 99, time.Second) })
				for c.Reply() != told {
				}
				if took := time.Since(start); took < time.Minute || took > 2*time.Minute {
					t.Errorf("it lasted %v", took)
				}
				wantErr(t, s, smtp.ErrTooSlow)
				c.Close()
				sender.Wait()
			})
		})
	}
}

func TestAn_honest_slow_client_is_served(t *testing.T) {
	body := strings.Repeat(strings.Repeat("x", 98)+"\r\n", 600)
	for name, sent := range map[string]string{
		"DATA":      "DATA\r\n" + body + ".\r\n",
		"a chunk":   fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body),
		"in chunks": strings.Repeat("BDAT 1000\r\n"+strings.Repeat("y", 1000), 60) + "BDAT 0 LAST\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			o := &owner{}
			bubble(t, rated(), o, func(t *testing.T, c *smtptest.Conn, s *running) {
				begin(t, c, mailCommand, rcptCommand)
				start := time.Now()
				c.Patience = time.Hour
				go slowly(c, sent, 1010, 10*time.Second)
				for len(o.accepted()) == 0 {
					if r := c.Reply(); r.Code() >= 400 {
						t.Fatalf("%q", r)
					}
				}
				if took := time.Since(start); took < 9*time.Minute {
					t.Errorf("it took only %v", took)
				}
			})
		})
	}
}

func TestOne_stall_is_no_slowness(t *testing.T) {
	o := &owner{}
	bubble(t, rated(), o, func(t *testing.T, c *smtptest.Conn, s *running) {
		begin(t, c, mailCommand, rcptCommand, "DATA")
		c.Send(strings.Repeat("x", 18_000))
		time.Sleep(timeout - time.Second)
		if r := c.Do("\r\n."); r.Code() != 250 {
			t.Errorf("%q", r)
		}
	})
}
