package e2e

import (
	"os"
	"testing"
	"time"
)

// soak skips a test that takes long unless it is asked for.
func soak(t *testing.T) {
	t.Helper()
	if os.Getenv("LSMTPD_SOAK") == "" {
		t.Skip("it takes long: make soak")
	}
}

func TestSoak_a_thousand_sessions_of_two_hundred_mails(t *testing.T) {
	soak(t)
	crowd(t, 1000, 200)
}

func TestSoak_the_daemon_killed_two_hundred_times(t *testing.T) {
	soak(t)
	killed(t, 200, 250)
}

func TestSoak_the_daemon_killed_thirty_times_while_it_spools(t *testing.T) {
	soak(t)
	killedSpooling(t, 30, 1000)
}

func TestSoak_the_broker_killed_twenty_times(t *testing.T) {
	soak(t)
	brokerKilled(t, 20, 10*time.Millisecond)
}

func TestSoak_the_connection_to_the_broker_reset_five_hundred_times(t *testing.T) {
	soak(t)
	flapping(t, 500, 200)
}
