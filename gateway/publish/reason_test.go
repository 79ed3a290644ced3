package publish

import (
	"net"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
)

// peer listens on a port of its own and does so with each connection.
func peer(t *testing.T, do func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			do(c)
		}
	}()
	return l.Addr().String()
}

func TestWhy_a_broker_is_away_is_told_in_the_same_words_each_time(t *testing.T) {
	broker := rabbit.Shared(t).Addr()
	free, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	nobody := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: free}).String()
	for _, c := range []struct {
		name, login, addr, vhost, reason string
		lasting                          bool
	}{
		{"nobody listens", "guest:guest", nobody, "", "is not there: connection refused", false},
		{"wrong password", "guest:s3cret", broker, "", "refuses the user or the password", true},
		{"wrong password, short timeout", "guest:s3cret", broker, "",
			"did not answer within 2.5s; RabbitMQ takes as long to refuse a password: check it, or raise amqp.connect_timeout", true},
		{"no such virtual host", "guest:guest", broker, "none", "refuses the virtual host, or the user's access to it", true},
		{"it stays silent", "guest:guest", peer(t, func(net.Conn) {}), "", "takes the connection and did not answer within 500ms", true},
		{"it closes at once", "guest:guest", peer(t, func(c net.Conn) { c.Close() }), "", "closed the connection", false},
		{"it speaks SMTP", "guest:guest", peer(t, func(c net.Conn) { c.Write([]byte("220 mx.example.org ESMTP\r\n")) }), "",
			"does not speak AMQP 0-9-1: is that its port, without TLS?", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := settings("amqp://" + c.login + "@" + c.addr + "/" + c.vhost)
			if c.name == "wrong password, short timeout" {
				settings.ConnectTimeout = 2500 * time.Millisecond // RabbitMQ waits for 3 s, from when it has heard the password
			}
			if c.name == "it stays silent" {
				settings.ConnectTimeout = 500 * time.Millisecond
			}
			for range 2 {
				_, err := dial(t.Context(), settings, settings.URLs[0], to{name: "test"})
				if want := "broker " + c.addr + " " + c.reason; err == nil || err.Error() != want {
					t.Errorf("error %v\nwant  %s", err, want)
				}
				if got, want := refused(err), strings.HasPrefix(c.name, "wrong password"); got != want {
					t.Errorf("refused for the password: %v", got)
				}
				if told := lasting(err); (told != "") != c.lasting || c.lasting && !strings.HasSuffix(told, c.reason) {
					t.Errorf("lasting: %q", told)
				}
			}
		})
	}
}

func TestABrokerThatRefusesThePasswordIsTriedSlowlyWhicheverOfTheURLsItIs(t *testing.T) {
	silent, refusing := &awayError{broker: "a"}, &awayError{broker: "b", refused: true}
	for _, c := range []struct {
		err    error
		slowly bool
	}{
		{silent, false}, {refusing, true}, {brokerErrors{silent, refusing}, true}, {brokerErrors{refusing, silent}, true}, {brokerErrors{silent}, false},
	} {
		if slowly := pause(1, c.err) >= 5*time.Second; slowly != c.slowly {
			t.Errorf("%v: slowly %v", c.err, slowly)
		}
	}
}
