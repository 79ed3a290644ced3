package daemon

import (
	"bufio"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const config = `
hostname: mail.example.com
admin: {socket: "{{.Dir}}/admin.sock"}
amqp: {urls: ["{{.AMQP}}"]}
spool: {dir: "{{.Dir}}/spool"}
listeners:
  - {name: inbound, address: "{{addr "inbound"}}", exchange: x, routing_key: k}
`

// nobody is a broker that is not there: these tests need none.
const nobody = "amqp://127.0.0.1:1/"

func TestA_daemon_that_is_started_takes_connections_and_ends_when_it_is_told(t *testing.T) {
	d := Start(t, Options{Config: config, AMQP: nobody})
	c, err := net.Dial("tcp", d.Addr(t, "inbound"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 mail.example.com ") {
		t.Errorf("greeting %q, %v", line, err)
	}
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	d.Restart(t)
	d.Kill()
	if code := d.ExitCode(t); code != 128+int(syscall.SIGKILL) {
		t.Errorf("exit status %d after SIGKILL", code)
	}
}

func TestA_daemon_that_does_not_start_tells_its_exit_code_and_why(t *testing.T) {
	d := Run(t, Options{Config: config + "nonsense: true\n", AMQP: nobody})
	if code := d.ExitCode(t); code != 78 {
		t.Errorf("exit status %d, want 78", code)
	}
	if !strings.Contains(d.Text(), "nonsense") {
		t.Errorf("it says %q", d.Text())
	}
}

func TestA_configuration_is_rendered_with_the_same_port_for_the_same_name(t *testing.T) {
	s := newSite(t, "amqp://there/")
	s.write(t, `{{addr "a"}} {{addr "b"}} {{.Dir}} {{.AMQP}}`)
	first := read(t, s)
	if a, b := s.listeners["a"], s.listeners["b"]; a == b || first != a+" "+b+" "+s.dir+" amqp://there/" {
		t.Errorf("%q and %q in %q", a, b, first)
	}
	s.write(t, `{{addr "a"}} 127.0.0.1:{{port "b"}} {{.Dir}} {{.AMQP}}`)
	if second := read(t, s); second != first {
		t.Errorf("%q, then %q", first, second)
	}
	if len(s.listeners) != 1 {
		t.Errorf("listeners %v, of which only a is left", s.listeners)
	}
}

func TestA_log_is_cut_into_lines_however_it_comes(t *testing.T) {
	l := newLog()
	printed := output{l}
	for _, part := range []string{`{"msg":"o`, "ne\"}\nnot JSON\n", `{"msg":"two","n":2}` + "\n" + "rest"} {
		if n, err := printed.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	two := l.Await(t, "two", 1, func(l Line) bool { return l.Field("msg") == "two" })
	if two.Index != 2 || two.Field("n") != "2" || two.Field("none") != "" {
		t.Errorf("%+v", two)
	}
	if got, want := l.Text(), "{\"msg\":\"one\"}\nnot JSON\n{\"msg\":\"two\",\"n\":2}\nrest"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func read(t *testing.T, s *site) string {
	t.Helper()
	b, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
