package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/rabbit"
	"lsmtpd/gateway/internal/smtptest"
)

// legacyKeys are what workers written for LSMTPD read, in its order.
var legacyKeys = []string{"timestamp", "message_id", "client_address", "recipients", "email_content", "sender"}

// mails are one of each kind that a payload writes in its own way.
var mails = []struct{ name, content, encoding string }{
	{"plain text", letter, ""},
	{"8-bit text", "Subject: Grüße\r\n\r\nпривет, 你好, 🙂\r\n", ""},
	{"what JSON escapes", "Subject: \"x\"\r\n\r\n\\u0041 \x00\x01\x1f\x7f\t</script>&\u2028\u2029\r\n", ""},
	{"no UTF-8", "Subject: latin\r\n\r\nGr\xfc\xdfe\r\n", "base64"},
	{"a lone surrogate's octets", "Subject: x\r\n\r\n\xed\xa0\x80\r\n", "base64"},
	{"dots and an empty line at the end", "Subject: x\r\n\r\n..\r\n.\r\n...x\r\n\r\n", ""},
}

func TestThe_JSON_payload_begins_as_LSMTPDs_did_and_holds_the_mail_octet_for_octet(t *testing.T) {
	t.Parallel()
	url := rabbit.Shared(t).URL()
	q := rabbit.Queue(t, url)
	d := start(t, url, config(listener("in", q.Name)))
	for _, m := range mails {
		t.Run(m.name, func(t *testing.T) {
			r := smtptest.Open(t, d.Addr(t, "in")).SendMail("", []string{"bob@example.com"}, m.content)
			if r.Code() != 250 {
				t.Fatal(r)
			}
			got := rabbit.Drain(t, q, 1, patience)[0]
			if keys := topKeys(t, got.Body); !slices.Equal(keys[:len(legacyKeys)], legacyKeys) {
				t.Errorf("keys %q", keys)
			}
			if p := wantPayload(t, got); p.Encoding != m.encoding {
				t.Errorf("encoding %q, want %q", p.Encoding, m.encoding)
			}
			mail, err := mailOf(&got)
			if content, ok := withoutReceived(mail); err != nil || !ok || content != m.content {
				t.Errorf("mail %q, %v\nsent %q", mail, err, m.content)
			}
			readByPython(t, got.Body, mail)
		})
	}
}

// topKeys are the keys of a JSON object in their order.
func topKeys(t *testing.T, object []byte) (keys []string) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(object))
	_, err := dec.Token()
	must(t, err)
	for dec.More() {
		key, err := dec.Token()
		must(t, err)
		keys = append(keys, key.(string))
		var value json.RawMessage
		must(t, dec.Decode(&value))
	}
	return keys
}

// worker is how a worker in Python comes to the octets of a mail.
const worker = `
import base64, datetime, json, sys
p = json.load(sys.stdin.buffer)
datetime.datetime.fromisoformat(p["timestamp"].replace("Z", "+00:00")[:26] + "+00:00")
c = p["email_content"]
sys.stdout.buffer.write(base64.b64decode(c) if p.get("encoding") == "base64" else c.encode())
`

func readByPython(t *testing.T, payload []byte, want string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		return // a newcomer's machine need not have it
	}
	cmd := exec.Command(python, "-c", worker)
	cmd.Stdin = bytes.NewReader(payload)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	got, err := cmd.Output()
	if err != nil || string(got) != want {
		t.Error(fmt.Errorf("python reads %q, %w %s\nwant %q", got, err, complaint.String(), want))
	}
}
