package publish

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a net.Conn that keeps each write.
type recorder struct {
	net.Conn
	writes [][]byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(b))
	return len(b), nil
}
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func TestACorkedConnectionWritesOnceAndInOrder(t *testing.T) {
	r := &recorder{}
	c := &conn{Conn: r}
	c.cork()
	for _, s := range []string{"a", "b", "c"} {
		if n, err := c.Write([]byte(s)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(r.writes) != 0 {
		t.Fatalf("%d writes while corked", len(r.writes))
	}
	c.uncork()
	c.Write([]byte("d"))
	if got := string(bytes.Join(r.writes, []byte("|"))); got != "abc|d" {
		t.Errorf("wrote %q", got)
	}
}

func TestACorkedConnectionKeepsTheOrderOfWhatIsTooLargeToCollect(t *testing.T) {
	r := &recorder{}
	c := &conn{Conn: r}
	c.cork()
	var want []byte
	for i, size := range []int{10, corkSize - 10, 1, corkSize + 1, 7, 3 * corkSize, 2} {
		b := bytes.Repeat([]byte{byte('a' + i)}, size)
		want = append(want, b...)
		c.Write(b)
	}
	c.uncork()
	if got := bytes.Join(r.writes, nil); !bytes.Equal(got, want) {
		t.Errorf("%d octets came out of %d, or in another order", len(got), len(want))
	}
}

func TestASilentBrokerEndsTheReadAndFreesAStuckWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c, err := newConn(t.Context(), ours, time.Now().Add(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		c.established(10 * time.Second)
		c.blocked(true) // writes wait for ten minutes
		begun := time.Now()
		stuck := make(chan error)
		go func() {
			_, err := c.Write([]byte("nobody reads this"))
			stuck <- err
		}()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the read ended without an error")
		}
		if err := <-stuck; err == nil {
			t.Error("the write ended without an error")
		}
		if took := time.Since(begun); took != 15*time.Second {
			t.Errorf("took %v, want one and a half heartbeats", took)
		}
	})
}

func TestAHandshakeIsBoundedAndTheLibraryCannotMoveADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c, err := newConn(t.Context(), ours, time.Now().Add(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Hour))
		c.SetDeadline(time.Time{})
		begun := time.Now()
		if _, err := io.ReadFull(c, make([]byte, 1)); err == nil || time.Since(begun) != 5*time.Second {
			t.Errorf("error %v after %v", err, time.Since(begun))
		}
	})
}
