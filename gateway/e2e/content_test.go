package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"lsmtpd/gateway/internal/smtptest"
)

// keyField begins every mail of a load, and names it in the ledger.
const keyField = "X-Ledger: "

// lines are what a random mail is made of: all that a mail may hold, and whatever has been known to trip mail software.
var lines = []func(r *rand.Rand) string{
	func(r *rand.Rand) string { return words(r, 2+r.IntN(10)) },
	func(*rand.Rand) string { return "" },
	func(r *rand.Rand) string { return strings.Repeat(".", 1+r.IntN(4)) + words(r, r.IntN(2)) },
	func(*rand.Rand) string { return "." },
	func(*rand.Rand) string { return "From nobody Thu Jan  1 00:00:00 1970" },
	func(*rand.Rand) string { return `"quotes", \backslashes\ and </script> & \u0041` },
	func(*rand.Rand) string { return "tab\tnul\x00bell\x07escape\x1b[31mdelete\x7f" },
	func(*rand.Rand) string { return "Grüße, привет, 你好, 🙂 and U+2028 \u2028 here" },
	func(r *rand.Rand) string { return strings.Repeat("a long line ", 100+r.IntN(1000)) },
}

// notUTF8 is the line that makes a mail one that JSON cannot carry as text.
func notUTF8(r *rand.Rand) string {
	b := make([]byte, 1+r.IntN(200))
	for i := range b {
		for b[i] = byte(r.Uint32()); b[i] == '\r' || b[i] == '\n'; b[i] = byte(r.Uint32()) {
		}
	}
	return string(b) + "\xff"
}

// randomMail is a mail that names key; one in three is no UTF-8, one in fifty is large.
func randomMail(r *rand.Rand, key string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\r\nSubject: %s\r\n\r\n", keyField, key, words(r, 3))
	n := r.IntN(20)
	if r.IntN(50) == 0 {
		n = 400
	}
	binary := r.IntN(3) == 0
	for range n {
		b.WriteString(lines[r.IntN(len(lines))](r))
		b.WriteString("\r\n")
	}
	if binary {
		b.WriteString(notUTF8(r) + "\r\n")
	}
	return b.String()
}

func words(r *rand.Rand, n int) string {
	const vocabulary = "mail queue broker spool route tenant letter stamp post office"
	all := strings.Fields(vocabulary)
	picked := make([]string, n)
	for i := range picked {
		picked[i] = all[r.IntN(len(all))]
	}
	return strings.Join(picked, " ")
}

// ledgerKey is the name of a mail of a load; "" of any other.
func ledgerKey(mail string) string {
	line, _, _ := strings.Cut(mail, "\r\n")
	key, ok := strings.CutPrefix(line, keyField)
	if !ok {
		return ""
	}
	return key
}

// withoutReceived is a mail without the field that the gateway put before it; ok is false where there is none.
func withoutReceived(mail string) (rest string, ok bool) {
	if !strings.HasPrefix(mail, "Received: ") {
		return mail, false
	}
	for {
		_, mail, ok = strings.Cut(mail, "\r\n")
		if !ok || !strings.HasPrefix(mail, "\t") && !strings.HasPrefix(mail, " ") {
			return mail, ok
		}
	}
}

// queuedAs is the id in the reply to a mail that was accepted.
func queuedAs(r smtptest.Reply) string {
	_, id, _ := strings.Cut(string(r), "queued as ")
	return id
}
