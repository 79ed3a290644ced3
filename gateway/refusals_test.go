package gateway

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFloodOfRefusalsIsTenLinesASecondAndACount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		var l refusalLog
		for second := range 3 {
			admitted := 0
			for range 100 {
				if l.admit(log) {
					admitted++
				}
				time.Sleep(time.Millisecond)
			}
			if admitted != refusalsPerSecond {
				t.Errorf("second %d: %d admitted", second, admitted)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if n := strings.Count(out.String(), "count=90"); n != 3 {
			t.Errorf("%d counts of 90 in\n%s", n, out.String())
		}
	})
}

func TestAFewRefusalsAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		var l refusalLog
		for range 25 {
			if !l.admit(log) {
				t.Error("not admitted")
			}
			time.Sleep(200 * time.Millisecond)
		}
		synctest.Wait()
		if out.Len() > 0 {
			t.Errorf("logged %s", out.String())
		}
	})
}
