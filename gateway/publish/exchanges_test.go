package publish

import (
	"fmt"
	"testing"
)

func TestAnExchangeThatIsOneTooManyWakesNobodyForEachMail(t *testing.T) {
	e := newExchanges(discard())
	for i := range maxLearned {
		e.ask(fmt.Sprint(i))
	}
	if len(e.wake) != 1 {
		t.Error("nobody was woken for those that are learned")
	}
	<-e.wake
	for range 2 {
		if verified, err := e.ask("one more"); verified || err != nil {
			t.Errorf("verified %v: %v", verified, err)
		}
	}
	if len(e.wake) != 0 || len(e.known) != maxLearned {
		t.Errorf("%d are known, and %d tokens wake", len(e.known), len(e.wake))
	}
}
