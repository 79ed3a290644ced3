package smtp_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/smtp"
)

// The table of situations and replies is testdata/table.txt; the other files go into detail. Each transcript is played in order, by a client that waits for
// nothing, and both again with its octets cut into segments at random: the replies are the same.
func TestEvery_situation_has_its_reply(t *testing.T) {
	for name, transcripts := range transcripts(t) {
		for _, tr := range transcripts {
			t.Run(name+"/"+tr.Name, func(t *testing.T) {
				settings, owner := prepare(t, tr)
				if tr.With["clock"] != "fake" {
					client, server := tcpPair(t)
					session := serve(t, server, settings, owner())
					tr.Run(t, client, smtptest.Whole)
					client.Close()
					session.wait()
				}
				if tr.HalfCloses() { // net.Pipe cannot
					return
				}
				for seed := range uint64(10) {
					cut := smtptest.RandomCuts(rand.New(rand.NewPCG(seed, 0)))
					inBubble(t, tr, settings, owner(), cut)
					inBubble(t, tr.Pipelined(), settings, owner(), cut)
				}
			})
		}
	}
}

// inBubble plays tr over net.Pipe, where delays cost no time and each segment is read alone.
func inBubble(t *testing.T, tr smtptest.Transcript, s *smtp.Settings, o *owner, cut smtptest.Cut) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		session := serve(t, server, s, o)
		tr.Run(t, client, cut)
		client.Close()
		session.wait()
		if begun, closed := o.transactions(); begun != closed {
			t.Errorf("%d transactions were begun and %d closed", begun, closed)
		}
		if n := s.Memory.Used(); n != 0 {
			t.Errorf("%d octets are held when all is over", n)
		}
	})
}

// transcripts reads testdata, by file.
func transcripts(t testing.TB) map[string][]smtptest.Transcript {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	all := map[string][]smtptest.Transcript{}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if all[filepath.Base(path)], err = smtptest.ReadTranscripts(f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return all
}

// prepare makes what a transcript asks for: settings, and an owner for each run.
func prepare(t testing.TB, tr smtptest.Transcript) (*smtp.Settings, func() *owner) {
	s := &smtp.Settings{Hostname: "mx.example", Timeout: timeout, Memory: memory.NewBudget(0).Share(0)}
	var admit smtp.Reply
	for key, value := range tr.With {
		var err error
		switch key {
		case "size_limit":
			s.SizeLimit, err = strconv.ParseInt(value, 10, 64)
		case "max_recipients":
			s.MaxRecipients, err = strconv.Atoi(value)
		case "line_endings":
			s.LineEndings = map[string]smtp.LineEndings{"fix": smtp.FixBare, "pass": smtp.PassBare}[value]
		case "admit":
			admit = map[string]smtp.Reply{
				"421":  {Code: 421, Enhanced: "4.3.2", Text: "Too many for the test", Close: true},
				"rate": {Code: 421, Enhanced: "4.7.0", Text: "Too fast for the test", Close: true},
				"554":  {Code: 554, Enhanced: "5.7.1", Text: "Access denied by the test"},
			}[value]
		case "protocol":
			s.LMTP = value == "lmtp"
		case "tls":
			s.TLS, s.ImplicitTLS = certified(t), value == "implicit"
		case "auth":
			s.Auth, s.AuthPlaintext = true, value == "plaintext"
		case "memory":
			var octets int64
			octets, err = strconv.ParseInt(value, 10, 64)
			s.Memory = memory.NewBudget(octets).Share(0)
		case "min_rate":
			s.MinRate, err = strconv.ParseInt(value, 10, 64)
		case "clock": // seen by who runs it
		default:
			err = fmt.Errorf("no such setting: %s", key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s, func() *owner { return &owner{admit: admit, lmtp: s.LMTP} }
}
