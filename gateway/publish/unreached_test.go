package publish

import (
	"fmt"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/logtest"
)

func TestAURLThatIsPassedOverIsToldOnceUntilItsReasonChangesOrItAnswers(t *testing.T) {
	leavesNothing(t)
	gone, locked, good := amqptest.Start(t), amqptest.Start(t), amqptest.Start(t)
	gone.Refuse(true)
	locked.Require(amqptest.Login{User: "guest", Password: "s3cret"})
	var log logtest.Buffer
	p := New(log.Logger())
	c := settings(gone.URL())
	c.URLs = append(c.URLs, locked.URL(), good.URL())
	change, err := p.Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	nobody, refuses := "broker "+gone.Addr()+" is not there: connection refused", "broker "+locked.Addr()+" refuses the user or the password"
	if got, want := fmt.Sprint(change.Verify(nil)), fmt.Sprintf("[%s (another one of amqp.urls answers) %s (another one of amqp.urls answers)]", nobody, refuses); got != want {
		t.Errorf("the report has %s, want %s", got, want)
	}
	change.Commit()
	runUntilEnd(t, p)

	const warn, failed = "level=WARN msg=\"broker passed over", "level=ERROR msg=\"broker passed over"
	told := func(warnings, errors int, notReached ...string) {
		t.Helper()
		text := log.String()
		if n, m := strings.Count(text, warn), strings.Count(text, failed); n != warnings || m != errors || strings.Contains(text, "s3cret") {
			t.Errorf("%d warnings and %d errors, want %d and %d, in\n%s", n, m, warnings, errors, text)
		}
		s := p.Status()
		if len(s.NotReached) != len(notReached) {
			t.Fatalf("status has %v, want %q", s.NotReached, notReached)
		}
		for i, want := range notReached {
			if got := s.NotReached[i]; got.Error != want || got.Tried.IsZero() {
				t.Errorf("status has %v, want %q", got, want)
			}
		}
	}
	again := func() {
		t.Helper()
		n := strings.Count(log.String(), "broker connected")
		for _, b := range []*amqptest.Broker{gone, locked, good} {
			b.Reset()
		}
		until(t, faultPatience, func() bool { return strings.Count(log.String(), "broker connected") > n && p.Available() })
	}
	told(1, 1, nobody, refuses)
	again()
	told(1, 1, nobody, refuses)

	locked.Refuse(true)
	again()
	told(2, 1, nobody, "broker "+locked.Addr()+" is not there: connection refused")

	gone.Refuse(false)
	again()
	told(2, 1, "broker "+locked.Addr()+" is not there: connection refused")
	gone.Refuse(true)
	locked.Refuse(false)
	again()
	told(3, 2, nobody, refuses)

	other := *c
	other.URLs = []string{good.URL()}
	if change, err = p.Prepare(t.Context(), &other); err != nil {
		t.Fatal(err)
	}
	change.Commit()
	told(3, 2)
}
