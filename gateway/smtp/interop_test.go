package smtp_test

import (
	"crypto/tls"
	"fmt"
	"net"
	netsmtp "net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/smtp"
)

// everything is on offer.
func everything(t testing.TB) *smtp.Settings {
	s := tlsSettings(t)
	s.Auth, s.MaxRecipients = true, 1000
	return s
}

func TestGo_s_own_client_delivers(t *testing.T) {
	o := &owner{}
	addr := listen(t, settings(), o)
	content := "Subject: from Go\r\n\r\n.dot\r\n..\r\n\r\nend\r\n"
	for range 2 {
		if err := netsmtp.SendMail(addr, nil, "a@client.example", []string{"b@mx.example", "c@mx.example"}, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range o.accepted() {
		if m.content != content || len(m.to) != 2 {
			t.Errorf("what arrived: %+v", m)
		}
	}
	if n := len(o.accepted()); n != 2 {
		t.Errorf("%d mails arrived", n)
	}
}

func TestGo_s_own_client_delivers_in_TLS_as_a_user(t *testing.T) {
	o := &owner{}
	addr := listen(t, everything(t), o)
	c, err := netsmtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, port, _ := net.SplitHostPort(addr)
	send := func() error {
		for _, step := range []func() error{
			func() error { return c.StartTLS(&tls.Config{InsecureSkipVerify: true}) },
			func() error { return c.Auth(netsmtp.PlainAuth("", "app", "secret", "127.0.0.1")) },
			func() error { return c.Mail("a@client.example") },
			func() error { return c.Rcpt("b@mx.example") },
			func() error {
				w, err := c.Data()
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "Subject: to port %s\r\n\r\n", port)
				return w.Close()
			},
			c.Quit,
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if m := o.accepted(); len(m) != 1 || m[0].client.User != "app" || m[0].client.Protocol != "UTF8SMTPSA" {
		t.Errorf("what arrived: %+v", m)
	}
}

const pythonScript = `
import smtplib, sys
with smtplib.SMTP("127.0.0.1", int(sys.argv[1])) as s:
    for n in range(3):
        s.sendmail("a@client.example", ["b@mx.example"], "Subject: %d\n\n.dot\n" % n)
    refused = s.sendmail("a@client.example", ["refused@mx.example", "b@mx.example"], b"last\r\n")
    assert list(refused) == ["refused@mx.example"], refused
    s.sendmail("\u00e9@client.example", ["b@mx.example"], b"utf8\r\n", mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    try:
        s.sendmail("a@client.example", ["b@mx.example"], b"x" * 11000000)
    except smtplib.SMTPSenderRefused as e:
        assert e.smtp_code == 552, e
    assert s.noop()[0] == 250 and s.verify("b")[0] == 252
`

func TestPython_s_client_delivers(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	o := &owner{}
	_, port, _ := net.SplitHostPort(listen(t, settings(), o))
	if out, err := exec.Command(python, "-c", pythonScript, port).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []string
	for _, m := range o.accepted() {
		got = append(got, m.content)
	}
	want := []string{"Subject: 0\r\n\r\n.dot\r\n", "Subject: 1\r\n\r\n.dot\r\n", "Subject: 2\r\n\r\n.dot\r\n", "last\r\n", "utf8\r\n"}
	if !slices.Equal(got, want) {
		t.Errorf("what arrived: %q, want %q", got, want)
	}
}

const pythonTLSScript = `
import smtplib, ssl, sys
insecure = ssl.create_default_context()
insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
host, starttls, implicit, lmtp = "127.0.0.1", int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with smtplib.SMTP(host, starttls) as s:
    s.ehlo()
    assert not s.has_extn("auth") and s.has_extn("starttls") and s.has_extn("chunking"), s.esmtp_features
    s.starttls(context=insecure)
    s.ehlo()
    assert not s.has_extn("starttls"), s.esmtp_features
    try:
        s.login("app", "wrong")
        assert False
    except smtplib.SMTPAuthenticationError as e:
        assert e.smtp_code == 535, e
    s.login("app", "secret")
    s.sendmail("a@client.example", ["b@mx.example"], b"starttls\r\n", mail_options=["RET=HDRS", "ENVID=x"], rcpt_options=["NOTIFY=NEVER"])
with smtplib.SMTP_SSL(host, implicit, context=insecure) as s:
    s.ehlo()
    s.user, s.password = "app", "secret"
    s.auth("LOGIN", s.auth_login, initial_response_ok=False)
    s.sendmail("a@client.example", ["b@mx.example"], b"implicit\r\n")
with smtplib.LMTP(host, lmtp) as s:
    s.sendmail("a@client.example", ["b@mx.example"], b"lmtp\r\n")
`

func TestPython_s_client_delivers_in_TLS_and_LMTP(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here")
	}
	o, local := &owner{}, &owner{lmtp: true}
	implicit, lmtp := everything(t), settings()
	implicit.ImplicitTLS, lmtp.LMTP = true, true
	args := []string{"-c", pythonTLSScript}
	for _, addr := range []string{listen(t, everything(t), o), listen(t, implicit, o), listen(t, lmtp, local)} {
		_, port, _ := net.SplitHostPort(addr)
		args = append(args, port)
	}
	if out, err := exec.Command(python, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got []string
	for _, m := range append(o.accepted(), local.accepted()...) {
		got = append(got, m.client.Protocol+" "+m.client.User+" "+strings.TrimSpace(m.content))
	}
	want := []string{"ESMTPSA app starttls", "ESMTPSA app implicit", "LMTP  lmtp"}
	if !slices.Equal(got, want) {
		t.Errorf("what arrived: %q, want %q", got, want)
	}
}

func TestSwaks_delivers(t *testing.T) {
	swaks, err := exec.LookPath("swaks")
	if err != nil {
		t.Skip("no swaks here")
	}
	implicit, lmtp := everything(t), settings()
	implicit.ImplicitTLS, lmtp.LMTP = true, true
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, []byte("Subject: x\n\n.dot\n..\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		pinned *smtp.Settings
		args   []string
		with   string
	}{
		{"in clear", everything(t), nil, "ESMTP"},
		{"pipelining", everything(t), []string{"--pipeline"}, "ESMTP"},
		{"HELO", everything(t), []string{"--protocol", "SMTP"}, "SMTP"},
		{"STARTTLS", everything(t), []string{"--tls"}, "ESMTPS"},
		{"implicit TLS", implicit, []string{"--tlsc"}, "ESMTPS"},
		{"AUTH PLAIN", everything(t), []string{"--tls", "--auth", "PLAIN", "--auth-user", "app", "--auth-password", "secret"}, "ESMTPSA"},
		{"AUTH LOGIN", everything(t), []string{"--tls", "--auth", "LOGIN", "--auth-user", "app", "--auth-password", "secret"}, "ESMTPSA"},
		{"LMTP", lmtp, []string{"--protocol", "LMTP"}, "LMTP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := &owner{lmtp: test.pinned.LMTP}
			_, port, _ := net.SplitHostPort(listen(t, test.pinned, o))
			args := append([]string{"--server", "127.0.0.1", "--port", port, "--helo", "client.example", "--from", "a@client.example",
				"--to", "b@mx.example,c@mx.example", "--data", "@" + body}, test.args...)
			out, err := exec.Command(swaks, args...).CombinedOutput()
			if err != nil && strings.Contains(string(out), "requires") {
				t.Skipf("%s", out)
			}
			m := o.accepted()
			if err != nil || len(m) != 1 || m[0].client.Protocol != test.with || len(m[0].to) != 2 ||
				!strings.HasPrefix(m[0].content, "Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n") {
				t.Errorf("%v: %+v\n%s", err, m, out)
			}
		})
	}
}
