package mail

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// crlfText is mail as it usually is: lines of some seventy octets.
func crlfText(n int) string {
	line := "The quick brown fox jumps over the lazy dog, and then some more text.\r\n"
	return strings.Repeat(line, n/len(line)+1)[:n]
}

func BenchmarkPayload(b *testing.B) {
	for _, size := range []int{2 << 10, 10 << 10, 1 << 20} {
		for kind, octets := range map[string]string{
			"text":   crlfText(size),
			"utf8":   strings.Repeat("Grüße aus München, Übergröße für schöne Tage.\r\n", size/50),
			"base64": strings.Repeat("\xff", size),
		} {
			d := sample(b, JSON, octets)
			buf := make([]byte, 0, d.Size())
			b.Run(kind+"/"+strconv.Itoa(size>>10)+"KiB", func(b *testing.B) {
				b.SetBytes(int64(len(octets)))
				b.ReportAllocs()
				for b.Loop() {
					d.measured.Store(0)
					_ = d.Size()
					buf = d.AppendPayload(buf[:0])
				}
			})
		}
	}
}

func BenchmarkEscape(b *testing.B) {
	octets := []byte(crlfText(10 << 10))
	buf := make([]byte, 0, 2*len(octets))
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(octets)))
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
	run("count", func() { _ = escapedLen(octets) })
	run("append", func() { buf = appendEscaped(buf[:0], octets) })
	run("strconv.AppendQuote", func() { buf = strconv.AppendQuote(buf[:0], string(octets)) })
	run("encoding/json", func() { _, _ = json.Marshal(string(octets)) })
}

func BenchmarkDecode(b *testing.B) {
	payload := sample(b, JSON, crlfText(10<<10)).AppendPayload(nil)
	b.Run("whole", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		for b.Loop() {
			d, err := Decode(payload)
			if err != nil {
				b.Fatal(err)
			}
			d.Content.Release()
		}
	})
	b.Run("envelope", func(b *testing.B) {
		b.SetBytes(int64(len(payload)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeEnvelope(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAMQPHeaders(b *testing.B) {
	for _, format := range []string{JSON, Raw} {
		d := sample(b, format, "x\r\n")
		b.Run(format, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = d.AMQPHeaders()
			}
		})
	}
}
