package gateway

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"lsmtpd/gateway/mail"
	"lsmtpd/gateway/memory"
)

// sized is a delivery of n octets.
func sized(n int) *mail.Delivery {
	d := delivery()
	d.Format, d.Content = mail.Raw, memory.NewContent([]byte(strings.Repeat("x", n)), 0, nil)
	return d
}

func TestWho_watches_gets_a_copy_of_what_is_told_from_then_on_until_it_stops_or_the_gateway_does(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{}
		g.watchers.tell(sized(1)) // nobody is there
		ctx, stop := context.WithCancel(t.Context())
		var got []Copy
		var watching sync.WaitGroup
		begin := func(ctx context.Context, each func(Copy) error, want error) {
			watching.Go(func() {
				if err := g.Watch(ctx, func() error { return nil }, each); !errors.Is(err, want) {
					t.Errorf("Watch ends with %v", err)
				}
			})
		}
		begin(ctx, func(c Copy) error { got = append(got, c); return nil }, nil)
		enough := errors.New("enough")
		begin(t.Context(), func(Copy) error { return enough }, enough)
		synctest.Wait()
		d := sized(3)
		g.watchers.tell(d)
		later := g.watchers.later(d)
		d.Content.Release() // its session has ended
		later(true)
		g.watchers.later(sized(4))(false)
		synctest.Wait()
		if len(got) != 2 || got[0].MessageID != d.ID.String() || string(got[1].Body) != "xxx" || got[0].Exchange != "x" ||
			got[0].ContentType != "message/rfc822" || got[0].Headers["lsmtpd-listener"] != "in" || got[0].LeftOut != 0 {
			t.Errorf("%+v", got)
		}
		stop()
		begin(t.Context(), func(Copy) error { return nil }, nil)
		synctest.Wait()
		if n := g.watchers.present.Load(); n != 1 {
			t.Errorf("%d watch", n)
		}
		g.watchers.close()
		watching.Wait()
		if err := g.Watch(t.Context(), func() error { return nil }, nil); err != nil {
			t.Error(err)
		}
		if n := g.watchers.present.Load(); n != 0 {
			t.Errorf("%d watch after the end", n)
		}
	})
}

func TestWho_is_slow_is_told_how_much_was_left_out_and_slows_nobody_down(t *testing.T) {
	for name, c := range map[string]struct{ size, tell, keeps int }{
		"by number":           {1, maxCopies + 10, maxCopies},
		"by size":             {maxCopyOctets / 4, 10, 4},
		"but one always fits": {maxCopyOctets + 1, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &Gateway{}
				ctx, stop := context.WithCancel(t.Context())
				wake := make(chan struct{})
				var bodies, leftOut uint64
				var watching sync.WaitGroup
				watching.Go(func() {
					g.Watch(ctx, func() error { <-wake; return nil }, func(c Copy) error {
						bodies++
						leftOut += c.LeftOut
						return nil
					})
				})
				synctest.Wait()
				d := sized(c.size)
				for range c.tell {
					g.watchers.tell(d)
				}
				close(wake)
				synctest.Wait()
				if bodies != uint64(c.keeps) || leftOut != 0 {
					t.Errorf("%d copies", bodies)
				}
				g.watchers.tell(d)
				synctest.Wait()
				if bodies != uint64(c.keeps)+1 || leftOut != uint64(c.tell-c.keeps) {
					t.Errorf("%d copies, %d left out", bodies, leftOut)
				}
				stop()
				watching.Wait()
			})
		})
	}
}

func BenchmarkTelling_nobody(b *testing.B) {
	g, d := &Gateway{}, sized(1000)
	b.ReportAllocs()
	for b.Loop() {
		g.watchers.tell(d)
	}
}
