package publish

import (
	"crypto/tls"
	"log/slog"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/routes/config"
)

func TestAClientCertificateLogsInAndABrokerThatIsSilentBehindTLSIsPassedOver(t *testing.T) {
	a := newAuthority(t)
	silent, good := a.broker(tls.VerifyClientCertIfGiven), a.broker(tls.VerifyClientCertIfGiven)
	silent.Freeze()
	c := settings(silent.URL())
	c.URLs = append(c.URLs, good.URL())
	c.ConnectTimeout = time.Second
	c.TLS = a.client("lsmtpd")
	p := runAway(t, discard(), c)
	verify(t, p, "x")
	submit(t.Context(), p, delivery("x", "k")).want(t, Confirmed)
	if l := good.Logins(); l[0] != (amqptest.Login{User: "lsmtpd"}) {
		t.Errorf("logged in as %v", l)
	}
	if silent.Attempts() == 0 || len(silent.Logins()) != 0 {
		t.Errorf("the silent one saw %d connections and %v", silent.Attempts(), silent.Logins())
	}
}

func TestABrokerWhoseCertificateNobodyKnowsGetsNoPassword(t *testing.T) {
	b := newAuthority(t).broker(tls.NoClientCert)
	c := settings(b.URL())
	c.TLS = &config.AMQPTLS{CAFile: newAuthority(t).file}
	change, err := New(discard()).Prepare(t.Context(), c)
	if err != nil || change.Warning == nil || !strings.Contains(change.Warning.Error(), "certificate") {
		t.Errorf("%v, warning %v", err, change.Warning)
	}
	if l := b.Logins(); len(l) != 0 {
		t.Errorf("it was told %v", l)
	}
}

// runAway runs a Publisher with c until t ends, wherever its brokers are.
func runAway(t *testing.T, log *slog.Logger, c *config.AMQP) *Publisher {
	t.Helper()
	p := New(log)
	change, err := p.Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	change.Commit()
	runUntilEnd(t, p)
	return p
}
