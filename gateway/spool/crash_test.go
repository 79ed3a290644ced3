package spool

import (
	"bufio"
	"context"
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

	"github.com/google/uuid"
)

// crashDir names the variable that makes this test binary a writer into the spool it names, see TestMain.
const crashDir = "SPOOL_TEST_CRASH_DIR"

// workUntilKilled puts mail as fast as it can, replays it beside that, and prints the id and the payload's checksum of each that is
// safe, and the id alone of each that is delivered, before its file is removed.
func workUntilKilled(dir string) {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(words...)
	}
	for range 16 {
		go func() {
			for {
				d := someDelivery(mail.JSON, []byte(strings.Repeat("some text\r\n", rand.IntN(2000))))
				if err := s.Put(d); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				sum := sha256.Sum256(d.AppendPayload(nil))
				say(d.ID, hex.EncodeToString(sum[:]))
				s.Settle(d.ID, false)
				d.Content.Release()
			}
		}()
	}
	_ = s.Replay(context.Background(), func(_ context.Context, d *mail.Delivery) (Verdict, error) {
		if rand.IntN(2) == 0 {
			return Later, nil
		}
		say(d.ID)
		return Done, nil
	})
}

// What the page cache loses in a power failure, no test of a process shows; that Put returns only after the fsyncs, commit_test.go does.
func TestPut_that_returned_nil_is_found_after_SIGKILL(t *testing.T) { killed(t, 5) }

func TestSoak_two_hundred_SIGKILLs_lose_nothing(t *testing.T) {
	if os.Getenv("LSMTPD_SOAK") == "" {
		t.Skip("it takes long: make soak")
	}
	killed(t, 200)
}

// killed kills a process that writes and replays, at random moments, and looks in its spool for what it promised.
func killed(t *testing.T, rounds int) {
	total := 0
	for round := range rounds {
		dir := spoolDir(t)
		promised := killedOnce(t, dir)
		total += len(promised)

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
		if t.Failed() {
			return
		}
	}
	t.Logf("%d rounds, %d files were promised and not delivered when the process was killed", rounds, total)
}

// killedOnce returns what the process said is safe and did not say is delivered.
func killedOnce(t *testing.T, dir string) (promised map[string]string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	promised = make(map[string]string)
	delivered := make(map[string]bool) // a line may come before the one that promised it
	after := 1 + rand.IntN(300)
	seen := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		id, sum, isPromise := strings.Cut(lines.Text(), " ")
		switch {
		case isPromise && len(sum) == 2*sha256.Size:
			promised[id] = sum
		case !isPromise && len(id) == len(uuid.Nil.String()):
			delivered[id] = true
		case seen < after:
			t.Errorf("child: %s", lines.Text())
		default: // cut by the signal
		}
		if seen++; seen == after {
			_ = child.Process.Kill()
		}
	}
	_ = child.Wait()
	if seen < after {
		t.Fatalf("the child ended after %d lines", seen)
	}
	for id := range delivered {
		delete(promised, id)
	}
	return promised
}
