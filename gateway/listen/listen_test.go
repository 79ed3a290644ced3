package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lsmtpd/gateway/internal/faultnet"
)

// echo is a Set that sends each client the address it came to.
func echo(t *testing.T) *Set {
	s := &Set{Log: slog.New(slog.DiscardHandler), Handle: func(address string, c net.Conn) {
		fmt.Fprint(c, address)
		c.Close()
	}}
	t.Cleanup(s.Close)
	return s
}

func apply(t *testing.T, s *Set, wanted ...string) {
	t.Helper()
	c, err := s.Prepare(wanted)
	if err != nil {
		t.Fatal(err)
	}
	c.Commit()
}

// port is one that no other process gets, nor the kernel gives to a client.
func port(t *testing.T) int {
	t.Helper()
	p, err := faultnet.Port()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// answer is what a client of addr reads.
func answer(addr string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestAKeptAddressKeepsItsSocketAndARemovedOneCloses(t *testing.T) {
	s := echo(t)
	apply(t, s, "127.0.0.1:0", "127.0.0.2:0")
	before := s.Addresses()
	kept := s.sockets["127.0.0.1:0"]
	apply(t, s, "127.0.0.1:0", "127.0.0.3:0")
	after := s.Addresses()
	if s.sockets["127.0.0.1:0"] != kept || after["127.0.0.1:0"] != before["127.0.0.1:0"] {
		t.Error("the kept address has another socket")
	}
	for _, address := range []string{"127.0.0.1:0", "127.0.0.3:0"} {
		if got, err := answer(after[address]); got != address {
			t.Errorf("%s answers %q, %v", address, got, err)
		}
	}
	s.Close()
	for _, addr := range []string{before["127.0.0.2:0"], after["127.0.0.1:0"], after["127.0.0.3:0"]} {
		if _, err := answer(addr); err == nil {
			t.Errorf("%v still answers", addr)
		}
	}
}

func TestOneAddressInUseUndoesTheWholePreparationAndIsNamed(t *testing.T) {
	held, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s := echo(t)
	address := fmt.Sprintf("127.0.0.1:%d", port(t))
	_, err = s.Prepare([]string{held.Addr().String(), address})
	if err == nil || !strings.Contains(err.Error(), "cannot listen on "+held.Addr().String()) || strings.Contains(err.Error(), address) {
		t.Fatalf("error: %v", err)
	}
	again, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatalf("what was bound was not closed: %v", err)
	}
	again.Close()
}

func TestARetiredSocketServesWhatItsQueueHolds(t *testing.T) {
	release := make(chan struct{})
	var served sync.WaitGroup
	s := &Set{Log: slog.New(slog.DiscardHandler), Handle: func(_ string, c net.Conn) {
		<-release // the accept loop stands still, so that the kernel queues what comes
		fmt.Fprint(c, "served")
		c.Close()
	}}
	apply(t, s, "127.0.0.1:0")
	addr := s.Addresses()["127.0.0.1:0"]
	var clients []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	served.Go(s.Close)
	close(release)
	for i, c := range clients {
		c.SetDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 10)
		if n, err := c.Read(b); string(b[:n]) != "served" {
			t.Errorf("client %d of 20 read %q, %v", i, b[:n], err)
		}
		c.Close()
	}
	served.Wait()
}

func TestAUnixSocketIsTheOwnersAloneAndRemovesOnlyItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := Unix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Unix(path, 0o600); err == nil || !strings.Contains(err.Error(), "somebody listens on "+path) {
		t.Errorf("over a live socket: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := Unix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the first socket removed the second's file: %v", err)
	}
	other.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the second left its file: %v", err)
	}
}

func TestASocketThatADeadProcessLeftIsReplacedAndAnotherFileIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	s, err := Unix(path, 0o600)
	if err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	s.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unix(path, 0o600); err == nil {
		t.Error("listens over a file")
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
	if _, err := Unix("/tmp/"+strings.Repeat("x", MaxUnixPath), 0o600); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("a path too long: %v", err)
	}
}
