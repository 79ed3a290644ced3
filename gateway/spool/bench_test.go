package spool

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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
