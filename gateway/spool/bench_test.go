package spool

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lsmtpd/gateway/mail"

	"github.com/google/uuid"
)

var mailOf2KiB = []byte(strings.Repeat("some seventy octets of text that make up one line of an ordinary mail\r\n", 29))

// in64 runs n times do in 64 goroutines.
func in64(n int, do func()) {
	var all sync.WaitGroup
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range 64 {
		all.Go(func() {
			for range work {
				do()
			}
		})
	}
	all.Wait()
}

func perSecond(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s") }

// benchDir is on the disk of the checkout, where /tmp may be in memory.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp(".", "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "spool")
}

func BenchmarkPut_64_writers(b *testing.B) {
	for name, named := range map[string]bool{"O_TMPFILE": false, "rename": true} {
		b.Run(name, func(b *testing.B) {
			s := mustOpen(b, benchDir(b))
			s.dir.(*root).named = named
			b.ReportAllocs()
			b.ResetTimer()
			in64(b.N, func() {
				d := someDelivery(mail.JSON, mailOf2KiB)
				if err := s.Put(d); err != nil {
					b.Error(err)
				}
				d.Content.Release()
			})
			b.StopTimer()
			perSecond(b)
			mustClose(b, s)
		})
	}
}

// BenchmarkRename_and_fsync_each is what a spool without group commit does: for comparison.
func BenchmarkRename_and_fsync_each(b *testing.B) {
	path := benchDir(b)
	dir, err := openDirectory(path)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.close()
	dir.named = true
	b.ResetTimer()
	in64(b.N, func() {
		f, err := dir.create()
		if err != nil {
			b.Error(err)
			return
		}
		defer f.Close()
		if _, err := f.Write(mailOf2KiB); err != nil {
			b.Error(err)
		}
		if err := f.Sync(); err != nil {
			b.Error(err)
		}
		if err := f.link(fileName(uuid.New())); err != nil {
			b.Error(err)
		}
		if err := dir.sync(); err != nil {
			b.Error(err)
		}
	})
	b.StopTimer()
	perSecond(b)
}

// BenchmarkSmall_mail_beside_mail_of_15_MB tells which part of its rate alone a listener of small mail keeps in an outage beside one
// whose mails have 15.5 MB; both have eight sessions.
func BenchmarkSmall_mail_beside_mail_of_15_MB(b *testing.B) {
	large := []byte(strings.Repeat(string(mailOf2KiB[:71]), 15_500_000/71))
	for b.Loop() {
		s := mustOpen(b, benchDir(b))
		keep := func(ctx context.Context, listener string, octets []byte) (n int64) {
			var sessions sync.WaitGroup
			var mails atomic.Int64
			for range 8 {
				sessions.Go(func() {
					for ctx.Err() == nil {
						d := someDelivery(mail.JSON, octets)
						d.Envelope.Listener = listener
						if err := s.Put(d); err != nil {
							b.Error(err)
						}
						s.Settle(d.ID, true)
						d.Content.Release()
						mails.Add(1)
					}
				})
			}
			sessions.Wait()
			return mails.Load()
		}
		var alone, beside, larges int64
		for range 4 { // in turn: a machine is not as fast all the time
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			alone += keep(ctx, "small", mailOf2KiB)
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 2*time.Second)
			var other sync.WaitGroup
			other.Go(func() { larges += keep(ctx, "large", large) })
			beside += keep(ctx, "small", mailOf2KiB)
			other.Wait()
			cancel()
		}
		mustClose(b, s)
		b.ReportMetric(float64(alone)/4, "alone/s")
		b.ReportMetric(float64(beside)/8, "beside/s")
		b.ReportMetric(float64(beside)/float64(2*alone), "beside/alone")
		b.ReportMetric(float64(larges)/8*15.5, "large-MB/s")
	}
}

func BenchmarkReplay(b *testing.B) {
	for _, format := range []string{mail.JSON, mail.Raw} {
		b.Run(format, func(b *testing.B) {
			s := mustOpen(b, benchDir(b))
			in64(b.N, func() {
				d := someDelivery(format, mailOf2KiB)
				if err := s.Put(d); err != nil {
					b.Error(err)
				}
				s.Settle(d.ID, false)
				d.Content.Release()
			})
			ctx, cancel := context.WithCancel(context.Background())
			var mu sync.Mutex
			left := b.N
			b.ReportAllocs()
			b.ResetTimer()
			_ = s.Replay(ctx, func(_ context.Context, d *mail.Delivery) (Verdict, error) {
				mu.Lock()
				defer mu.Unlock()
				if left--; left == 0 {
					cancel()
				}
				return Done, nil
			})
			mustClose(b, s) // the files are removed
			b.StopTimer()
			perSecond(b)
		})
	}
}

func BenchmarkIndex_at_start(b *testing.B) {
	dir := benchDir(b)
	s := mustOpen(b, dir)
	const n = 10_000
	in64(n, func() {
		if err := s.Put(someDelivery(mail.JSON, mailOf2KiB)); err != nil {
			b.Error(err)
		}
	})
	mustClose(b, s)
	b.ResetTimer()
	for b.Loop() {
		s := mustOpen(b, dir)
		indexedNow(s)
		mustClose(b, s)
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "files/s")
}
