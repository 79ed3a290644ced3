package smtp_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes/address"
)

// idleServer is the environment variable that makes this test's binary a server: its memory is to be that of sessions alone.
const idleServer = "LSMTPD_TEST_IDLE_SERVER"

// serveIdle prints its address, serves, and prints its resident memory in KiB for each line of its standard input.
func serveIdle() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	s := &smtp.Settings{Hostname: "mx.example", Timeout: time.Hour, SizeLimit: 10 << 20}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				panic(err)
			}
			go smtp.NewSession(c, s, deep{}).Serve(context.Background())
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		for range 4 { // each halves stacks; it comes at the latest every two minutes
			runtime.GC()
		}
		debug.FreeOSMemory()
		fmt.Println(resident())
	}
}

// deep is a sink whose Data needs some stack, as one that publishes does.
type deep struct{ sink }

func (deep) Mail(ctx context.Context, c *smtp.Client, from address.Address, p smtp.MailParams) (smtp.Transaction, smtp.Reply) {
	return deep{}, smtp.Reply{}
}

func (deep) Data(context.Context, *memory.Content) []smtp.Reply {
	var stack [16 << 10]byte
	runtime.KeepAlive(&stack)
	return taken
}

// resident is VmRSS of this process, in KiB.
func resident() (kib int) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fmt.Sscan(rest, &kib)
	return kib
}

func TestFive_thousand_idle_sessions_are_held_in_eight_KiB_each_and_answered(t *testing.T) {
	if runtime.GOOS != "linux" || raced {
		t.Skip("resident memory is read from /proc, and the race detector takes more")
	}
	const sessions, most = 5000, 8 << 10
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < sessions+100 {
		t.Skipf("no %d open files are allowed here: %d, %v", sessions, files.Cur, err)
	}
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), idleServer+"=1")
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer in.Close()
	lines := bufio.NewScanner(out)
	next := func() string {
		if !lines.Scan() {
			t.Fatal("the server is gone")
		}
		return lines.Text()
	}
	addr := next()
	use := func() (kib int) {
		fmt.Fprintln(in)
		fmt.Sscan(next(), &kib)
		return kib
	}
	const batch = "EHLO client.example\r\n" + mailCommand + "\r\n" + rcptCommand + "\r\nDATA\r\na mail\r\n.\r\n"
	open := func() *smtptest.Client {
		c, err := smtptest.Connect(addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Receive()
		if err := c.Send(batch); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := c.Receive(); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	for range 100 { // pays for what is there once
		open().Close()
	}
	before := use()
	clients := make([]net.Conn, sessions)
	for i := range clients {
		clients[i] = open().Conn // without its reader
		defer clients[i].Close()
	}
	after := use()
	per := (after - before) << 10 / sessions
	t.Logf("%d idle sessions: %d KiB resident over %d, %d octets each", sessions, after-before, before, per)
	if per > most {
		t.Errorf("an idle session takes %d octets, want no more than %d", per, most)
	}
	for _, c := range clients {
		if r, err := smtptest.NewClient(c).Exchange("NOOP"); err != nil || r.Code() != 250 {
			t.Fatalf("%q, %v", r, err)
		}
	}
	t.Logf("%d octets each once they were answered", (use()-before)<<10/sessions)
}
