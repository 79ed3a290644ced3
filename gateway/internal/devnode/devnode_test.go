package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lsmtpd/gateway/internal/faultnet"
	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/routes/config"
)

// TestMain is devnode itself, when it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv("DEVNODE_TEST_MAIN") != "" {
		main()
	}
	rabbit.Main(m)
}

func TestTests_get_a_node_and_it_is_gone_after_them(t *testing.T) {
	t.Parallel()
	cmd := devnode("--", "sh", "-c", "echo $"+rabbit.URLVariable+"; exit 7")
	cmd.Env = append(cmd.Env, rabbit.URLVariable+"=")
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Fatalf("exit status %d, want the command's 7: %v", code, err)
	}
	addr := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(string(out)), "amqp://guest:guest@"), "/")
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Fatalf("the command was given %q", out)
	}
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s afterwards: %v", addr, err)
	}
}

func TestTests_that_have_a_broker_get_no_other_and_signals_are_passed_on(t *testing.T) {
	for _, tt := range []struct {
		sent syscall.Signal
		want string
	}{
		{syscall.SIGINT, "INT"},
		{syscall.SIGTERM, "TERM"},
		{syscall.SIGHUP, "TERM"},
	} {
		cmd := devnode("--", "sh", "-c", `for s in HUP INT TERM; do trap "echo $s; exit 9" $s; done; echo $`+rabbit.URLVariable+`; while :; do sleep 0.01; done`)
		cmd.Env = append(cmd.Env, rabbit.URLVariable+"=amqp://there/")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewScanner(out)
		if !said.Scan() || said.Text() != "amqp://there/" {
			t.Fatalf("%q, %v", said.Text(), said.Err())
		}
		if err := cmd.Process.Signal(tt.sent); err != nil {
			t.Fatal(err)
		}
		if !said.Scan() || said.Text() != tt.want {
			t.Errorf("after %v the command got %q, want %s", tt.sent, said.Text(), tt.want)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("exit status %d after %v, want the command's 9", code, tt.sent)
		}
	}
}

func TestA_broker_is_told_from_what_only_holds_its_port(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 smtp\r\n"))
			_ = c.Close()
		}
	}()
	closed := "127.0.0.1:1"
	for _, tt := range []struct {
		name, url, user string
		answers         bool
		unfit           string
	}{
		{"RabbitMQ", rabbit.Shared(t).URL(), "", true, ""},
		{"another server", "amqp://" + silent.Addr().String() + "/", "", false, "does not speak AMQP holds " + silent.Addr().String()},
		{"a free port", "amqp://" + closed + "/", "", false, ""},
		{"a free port for TLS", "amqps://" + closed + "/", "", false, "TLS"},
		{"a user of the URL", "amqp://app:secret@" + closed + "/", "", false, "only the user guest"},
		{"a user beside the URL", "amqp://" + closed + "/", "app", false, "only the user guest"},
		{"another vhost", "amqp://" + closed + "/mail", "", false, "the vhost /"},
		{"no URL of AMQP's", "http://x", "", false, "not one of AMQP's"},
	} {
		b := look(tt.url, tt.user)
		if b.answers != tt.answers || !strings.Contains(b.unfit, tt.unfit) || tt.unfit == "" && b.unfit != "" {
			t.Errorf("%s: %+v", tt.name, b)
		}
		if strings.Contains(b.unfit, "secret") {
			t.Errorf("%s: a secret in %q", tt.name, b.unfit)
		}
	}
	c := &config.Config{AMQP: config.AMQP{URLs: []string{"amqps://" + closed + "/", "amqp://" + closed + "/", rabbit.Shared(t).URL()}}}
	if b := findBroker(c); !b.answers {
		t.Errorf("of three, one of which answers: %+v", b)
	}
	c.AMQP.URLs = c.AMQP.URLs[:2]
	if b := findBroker(c); b.answers || b.unfit != "" {
		t.Errorf("of two, the second of which can be stood in for: %+v", b)
	}
}

const yaml = `
amqp:
  urls: ["URL"]
  topology:
    exchanges: [{name: lsmtp, type: topic, durable: true}]
    queues: [{name: inbox, durable: true}]
    bindings: [{exchange: lsmtp, queue: inbox, routing_key: "#"}]
spool: {dir: .run/spool}
listeners:
  - {name: inbound, address: "127.0.0.1:2525", exchange: lsmtp, routing_key: k}
`

func TestA_run_starts_a_node_where_the_configuration_expects_one_and_keeps_its_data(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port, err := faultnet.Port()
	must(t, err)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	path := filepath.Join(dir, "lsmtpd.yaml")
	must(t, os.WriteFile(path, []byte(strings.Replace(yaml, "URL", "amqp://"+addr+"/", 1)), 0o600))
	ctl := filepath.Join(dir, ".run", "rabbitmq", "ctl")
	script := "#!/bin/sh\nexec " + ctl + ` --quiet "$@"` + "\n"
	must(t, os.WriteFile(filepath.Join(dir, "ctl"), []byte(script), 0o700))

	said := runDevnode(t, 0, "-c", path, "--", filepath.Join(dir, "ctl"), "add_vhost", "kept")
	for _, want := range []string{
		"starting a private node at " + addr, "ready after",
		"bin/lsmtpd tail --bind lsmtp    # prints what comes to the exchange, which feeds queue inbox",
		"bin/lsmtpd send --server 127.0.0.1:2525 --from a@example.com --to b@example.com",
		"list_queues name messages",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if said := runDevnode(t, 0, "-c", path, "--", filepath.Join(dir, "ctl"), "list_vhosts"); !strings.Contains(said, "kept") {
		t.Errorf("the data was not kept:\n%s", said)
	}
}

func TestA_run_goes_on_without_a_broker_and_says_so(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			_ = c.Close()
		}
	}()
	defer l.Close()
	path := filepath.Join(t.TempDir(), "lsmtpd.yaml")
	must(t, os.WriteFile(path, []byte(strings.Replace(yaml, "URL", "amqp://"+l.Addr().String()+"/", 1)), 0o600))
	said := runDevnode(t, 3, "-c", path, "--", "sh", "-c", "echo it ran; exit 3")
	for _, want := range []string{"does not speak AMQP holds " + l.Addr().String(), "spools mail in", "it ran"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
}

func TestA_configuration_with_faults_is_left_for_the_command_to_explain(t *testing.T) {
	if said := runDevnode(t, 78, "-c", "/no/such/lsmtpd.yaml", "--", "sh", "-c", "exit 78"); said != "" {
		t.Errorf("it says %q", said)
	}
}

func TestNothing_to_run_is_a_usage_error(t *testing.T) {
	var out bytes.Buffer
	if code := run(nil, &out); code != exitUsage || !strings.Contains(out.String(), "usage: devnode") {
		t.Errorf("exit status %d, %q", code, out.String())
	}
	if said := runDevnode(t, exitNotFound, "-c", "/no/such/lsmtpd.yaml", "--", "lsmtpd-no-such-command"); !strings.Contains(said, "lsmtpd-no-such-command") {
		t.Errorf("it says %q", said)
	}
}

func devnode(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "DEVNODE_TEST_MAIN=1")
	return cmd
}

// runDevnode returns all that devnode and its command said.
func runDevnode(t *testing.T, status int, args ...string) string {
	t.Helper()
	cmd := devnode(args...)
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != status {
		t.Fatalf("exit status %d, want %d:\n%s", code, status, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
