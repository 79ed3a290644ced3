package smtp_test

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/smtp"
)

func settings() *smtp.Settings {
	return &smtp.Settings{Hostname: "mx.example", Timeout: timeout, SizeLimit: 10 << 20}
}

func TestThe_last_reply_is_read_whatever_the_client_still_sends(t *testing.T) {
	junk := strings.Repeat("x", 200_000)
	for i := range 100 {
		client, server := tcpPair(t)
		c := smtptest.New(t, client)
		s := serve(t, server, settings(), &owner{})
		c.Reply()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			c.Client.Send(junk)
		}()
		<-sent // it is on its way, or in the server's receive buffer: unread when the server closes
		if r := c.Reply(); r != "500 5.5.2 Line too long" {
			t.Fatalf("round %d: %q", i, r)
		}
		c.WantEnd()
		c.Close()
		wantErr(t, s, smtp.ErrLineTooLong)
	}
}

func TestWhat_comes_behind_the_last_reply_meets_no_closed_connection(t *testing.T) {
	client, server := tcpPair(t)
	c := smtptest.New(t, client)
	s := serve(t, server, settings(), &owner{})
	hello(t, c)
	c.Do("QUIT")
	c.WantEnd()
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		c.Send("x")
	}
	c.Close()
	wantErr(t, s, nil)
}

func TestA_client_that_never_stops_is_cut(t *testing.T) {
	client, server := tcpPair(t)
	go func() {
		b := bytes.Repeat([]byte("x"), 64<<10)
		for {
			if _, err := client.Write(b); err != nil {
				return
			}
		}
	}()
	waitReadable(t, server)
	wantErr(t, serve(t, server, settings(), &owner{}), smtp.ErrEarlyTalker)
}

func TestWho_speaks_before_the_greeting_is_turned_away(t *testing.T) {
	for _, test := range []struct {
		octets string
		reply  smtptest.Reply
		err    error
	}{
		{"EHLO client.example\r\n", "554 5.5.0 Spoke before the greeting", smtp.ErrEarlyTalker},
		{"G", "554 5.5.0 Spoke before the greeting", smtp.ErrEarlyTalker},
		{"GET / HTTP/1.1\r\n", "521 5.5.2 This is an SMTP port", smtp.ErrForeign},
		{"\x16\x03\x01\x02\x00\x01", "521 5.5.2 This is an SMTP port", smtp.ErrForeign},
		{"SSH-2.0-x\r\n", "521 5.5.2 This is an SMTP port", smtp.ErrForeign},
	} {
		client, server := tcpPair(t)
		c := smtptest.New(t, client)
		c.Send(test.octets)
		waitReadable(t, server)
		s := serve(t, server, settings(), &owner{})
		if r := c.Reply(); r != test.reply {
			t.Errorf("%q: %q, want %q", test.octets, r, test.reply)
		}
		c.WantEnd()
		c.Close()
		wantErr(t, s, test.err)
	}
}

// waitReadable waits until there are octets to be read from c, and reads none.
func waitReadable(t *testing.T, c net.Conn) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var octet [1]byte
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), octet[:], syscall.MSG_PEEK)
		return err != syscall.EAGAIN
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWho_left_before_the_greeting_is_not_greeted(t *testing.T) {
	client, server := tcpPair(t)
	client.Close()
	waitReadable(t, server)
	o := &owner{}
	if err := serve(t, server, settings(), o).wait(); err != nil || len(o.refused) != 0 {
		t.Errorf("it was answered: %v, %q", err, o.refused)
	}
}

func TestDrain_wakes_a_session_over_TCP(t *testing.T) {
	for range 50 {
		client, server := tcpPair(t)
		c := smtptest.New(t, client)
		s := serve(t, server, settings(), &owner{})
		hello(t, c)
		s.Drain()
		if r := c.Reply(); r != "421 4.3.2 Service not available, closing" {
			t.Fatalf("%q", r)
		}
		c.WantEnd()
		c.Close()
		wantErr(t, s, nil)
	}
}

func TestA_client_that_waits_for_nothing_is_served_mail_by_mail(t *testing.T) {
	o := &owner{}
	c := smtptest.Open(t, listen(t, settings(), o))
	var all strings.Builder
	contents := make([]string, 100)
	for i := range contents {
		contents[i] = strings.Repeat(fmt.Sprintf(".%d\r\n", i), i*i) + "end\r\n"
		fmt.Fprintf(&all, "%s\r\n%s\r\nDATA\r\n%s.\r\n", mailCommand, rcptCommand, smtptest.Stuff(contents[i]))
	}
	go c.Client.Send(all.String())
	for range contents {
		for _, code := range []int{250, 250, 354, 250} {
			if r := c.Reply(); r.Code() != code {
				t.Fatalf("%q, want %d", r, code)
			}
		}
	}
	for i, m := range o.accepted() {
		if m.content != contents[i] {
			t.Errorf("mail %d has %d octets of %d", i, len(m.content), len(contents[i]))
		}
	}
}

// What a session keeps while its client says nothing is what bounds how many there can be.
func TestAn_idle_session_holds_no_buffer(t *testing.T) {
	const sessions = 200
	addr := listen(t, settings(), sink{})
	batch := "EHLO client.example\r\n" + mailCommand + "\r\n" + rcptCommand + "\r\nDATA\r\n" +
		strings.Repeat("a mail\r\n", 1000) + ".\r\n"
	// The first half pays for what is there once.
	var clients []net.Conn
	var used [2]int
	for half := range used {
		for range sessions {
			c := smtptest.Dial(t, addr)
			c.Reply()
			c.Send(batch)
			for range 5 {
				c.Reply()
			}
			clients = append(clients, c.Conn) // without its reader
		}
		used[half] = heap()
	}
	runtime.KeepAlive(clients)
	if per := (used[1] - used[0]) / sessions; per > 4<<10 {
		t.Errorf("an idle session and its client's connection hold %d octets of heap", per)
	}
}

// heap returns the octets in use, pools emptied.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestSessions_side_by_side_keep_their_mails_apart(t *testing.T) {
	o := &owner{}
	addr := listen(t, settings(), o)
	var senders sync.WaitGroup
	for n := range 20 {
		senders.Go(func() {
			c, err := smtptest.Connect(addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.Hello(); err != nil {
				t.Error(err)
			}
			for i := range 10 {
				content := strings.Repeat(fmt.Sprintf(".%d %d\r\n", n, i), 1+n*i*10)
				r, err := c.Deliver(fmt.Sprintf("%d@client.example", n), []string{fmt.Sprintf("%d@mx.example", n)}, content)
				if err != nil || r.Code() != 250 {
					t.Errorf("%q, %v", r, err)
				}
			}
		})
	}
	senders.Wait()
	next := map[string]int{}
	for _, m := range o.accepted() {
		n, i := m.from.Local, next[m.from.Local]
		next[n]++
		line := fmt.Sprintf(".%s %d\r\n", n, i)
		if m.to[0].Local != n || strings.ReplaceAll(m.content, line, "") != "" || m.content == "" {
			t.Errorf("mail %d of %s holds what is not its own", i, n)
		}
	}
	if len(o.accepted()) != 200 {
		t.Errorf("%d mails arrived", len(o.accepted()))
	}
}
