package smtp_test

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// dialogue is what a client of one mail after the other sends, and how many octets of replies it waits for each time.
type dialogue []struct {
	send    string
	replies string
}

const start354 = "354 End data with <CR><LF>.<CR><LF>\r\n"

func BenchmarkSession(b *testing.B) {
	body := strings.Repeat("The quick brown fox jumps over the lazy dog.\r\n", 22) + ".\r\n" // 1 KiB
	const m, r, q = "250 2.1.0 Ok\r\n", "250 2.1.5 Ok\r\n", "250 2.0.0 Ok: queued as 0\r\n"
	for name, d := range map[string]dialogue{
		"a command at a time": {{mailCommand + "\r\n", m}, {rcptCommand + "\r\n", r}, {"DATA\r\n", start354}, {body, q}},
		"pipelining":          {{mailCommand + "\r\n" + rcptCommand + "\r\nDATA\r\n", m + r + start354}, {body, q}},
		"no waiting":          {{mailCommand + "\r\n" + rcptCommand + "\r\nDATA\r\n" + body, m + r + start354 + q}},
		"100 recipients":      {{mailCommand + "\r\n" + strings.Repeat(rcptCommand+"\r\n", 100) + "DATA\r\n", m + strings.Repeat(r, 100) + start354}, {body, q}},
		"1 MiB":               {{mailCommand + " SIZE=1000000\r\n" + rcptCommand + "\r\nDATA\r\n", m + r + start354}, {strings.Repeat(strings.Repeat("x", 76)+"\r\n", 13000) + body, q}},
	} {
		b.Run(name, func(b *testing.B) {
			client, server := tcpPair(b)
			s := serve(b, server, settings(), sink{})
			replies := make([]byte, 4096)
			speak := func(octets []byte, want int) {
				if _, err := client.Write(octets); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, replies[:want]); err != nil {
					b.Fatal(err)
				}
			}
			speak(nil, len("220 mx.example ESMTP lsmtpd\r\n"))
			speak([]byte("HELO client.example\r\n"), len("250 mx.example\r\n"))
			size, sends := 0, make([][]byte, len(d))
			for i, turn := range d {
				size += len(turn.send)
				sends[i] = []byte(turn.send)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for i, turn := range d {
					speak(sends[i], len(turn.replies))
				}
			}
			b.StopTimer()
			client.Close()
			s.wait()
		})
	}
}

// BenchmarkIdle tells what a session costs that waits for its client, its goroutine's stack and its client's end included.
func BenchmarkIdle(b *testing.B) {
	addr := listen(b, settings(), sink{})
	var clients []net.Conn
	before := inUse()
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		clients = append(clients, c)
		io.ReadFull(c, make([]byte, len("220 mx.example ESMTP lsmtpd\r\n")))
	}
	b.ReportMetric(float64(inUse()-before)/float64(len(clients)), "B/session")
	for _, c := range clients {
		c.Close()
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
