package spool

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"lsmtpd/gateway/mail"
)

// crashDir names the variable that makes this test binary a writer into the spool it names, see TestMain.
const crashDir = "SPOOL_TEST_CRASH_DIR"

// writeUntilKilled puts mail as fast as it can, and prints the id and the payload's checksum of each that is safe.
func writeUntilKilled(dir string) {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for range 16 {
		go func() {
			for {
				d := someDelivery(mail.JSON, []byte(strings.Repeat("some text\r\n", rand.IntN(2000))))
				if err := s.Put(d); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				sum := sha256.Sum256(d.AppendPayload(nil))
				mu.Lock()
				fmt.Println(d.ID, hex.EncodeToString(sum[:]))
				mu.Unlock()
				d.Content.Release()
			}
		}()
	}
	select {}
}

// What the page cache loses in a power failure, no test of a process shows; that Put returns only after the fsyncs, commit_test.go does.
func TestPut_that_returned_nil_is_found_after_SIGKILL(t *testing.T) {
	for round := range 5 {
		dir := spoolDir(t)
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		promised := make(map[string]string)
		after := 1 + rand.IntN(100)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			id, sum, ok := strings.Cut(lines.Text(), " ")
			if !ok || len(sum) != 2*sha256.Size {
				if len(promised) < after {
					t.Errorf("child: %s", lines.Text())
				}
				continue // cut by the signal
			}
			if promised[id] = sum; len(promised) == after {
				_ = child.Process.Kill()
			}
		}
		_ = child.Wait()
		if len(promised) < after {
			t.Fatalf("round %d: the child ended after %d files", round, len(promised))
		}

		s := mustOpen(t, dir)
		indexedNow(s)
		st := s.Status()
		if st.Unreadable > 0 || st.Files < len(promised) {
			t.Errorf("round %d: status %+v, %d promised", round, st, len(promised))
		}
		for _, got := range replayed(t, s, st.Files) {
			sum := sha256.Sum256([]byte(got.payload))
			if want, ok := promised[got.id.String()]; ok && want != hex.EncodeToString(sum[:]) {
				t.Errorf("round %d: %s came back with other octets", round, got.id)
			}
			delete(promised, got.id.String())
		}
		if len(promised) > 0 {
			t.Errorf("round %d: %d files are lost", round, len(promised))
		}
		mustClose(t, s)
		if names := files(t, dir); len(names) > 0 {
			t.Errorf("round %d: left %v", round, names)
		}
	}
}
