package smtp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"

	"lsmtpd/gateway/memory"
	"lsmtpd/gateway/smtp"
	"lsmtpd/routes/address"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(idleServer) != "" {
		serveIdle()
		return
	}
	goleak.VerifyTestMain(m)
}

// owner is the Handler of these tests. What it answers is in the local parts of the addresses.
type owner struct {
	admit smtp.Reply
	lmtp  bool // it answers for each recipient
	// during is called inside of each Data; nil does nothing.
	during func(context.Context)

	mu      sync.Mutex
	mails   []mail
	refused []string // command and code
	begun   int      // transactions
	closed  int
}

// mail is one that was accepted.
type mail struct {
	from    address.Address
	to      []address.Address
	params  smtp.MailParams
	dsn     []smtp.RcptParams // of the recipients
	client  smtp.Client
	content string // without the prefix
}

const prefix = "Received: by the test\r\n"

func (o *owner) Admit(context.Context, *smtp.Client) smtp.Reply { return o.admit }

// Auth knows the user app, whose password is secret.
func (o *owner) Auth(_ context.Context, _ *smtp.Client, user, password string) smtp.Reply {
	switch {
	case user == "busy":
		return smtp.Reply{Code: 454, Enhanced: "4.7.0", Text: "Try again"}
	case user == "app" && password == "secret":
		return smtp.Reply{}
	}
	return smtp.Reply{Code: 535, Enhanced: "5.7.8", Text: "Wrong"}
}

func (o *owner) Mail(_ context.Context, c *smtp.Client, from address.Address, p smtp.MailParams) (smtp.Transaction, smtp.Reply) {
	switch from.Local {
	case "busy":
		return nil, smtp.Reply{Code: 450, Enhanced: "4.7.1", Text: "Slow down"}
	case "secure":
		return nil, smtp.Reply{Code: 530, Enhanced: "5.7.0", Text: "First things first"}
	case "weird":
		return nil, smtp.Reply{Code: 450, Enhanced: "4.7.1", Text: "a\rbéc"}
	case "gone":
		return nil, smtp.Reply{Code: 421, Enhanced: "4.3.2", Text: "Go away", Close: true}
	case "panic":
		panic("asked for")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begun++
	return &transaction{owner: o, client: c, mail: mail{from: from, params: p}}, smtp.Reply{}
}

func (o *owner) Refused(_ *smtp.Client, command string, r smtp.Reply) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = append(o.refused, fmt.Sprintf("%s %d", command, r.Code))
}

// accepted returns the mails so far.
func (o *owner) accepted() []mail {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.mails)
}

// transactions returns how many were begun, and how often one was closed.
func (o *owner) transactions() (begun, closed int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.begun, o.closed
}

type transaction struct {
	owner  *owner
	client *smtp.Client
	mail
}

func (t *transaction) Rcpt(_ context.Context, to address.Address, p smtp.RcptParams) smtp.Reply {
	switch to.Local {
	case "refused":
		return smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: "Not here"}
	case "nobody":
		return smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "No such recipient here"}
	case "longkey":
		return smtp.Reply{Code: 501, Enhanced: "5.1.3", Text: "Recipient address too long"}
	case "manyroutes":
		return smtp.Reply{Code: 452, Enhanced: "4.5.3", Text: "Too many destinations"}
	}
	t.to = append(t.to, to)
	t.dsn = append(t.dsn, p)
	return smtp.Reply{}
}

func (t *transaction) Begin(context.Context) ([]byte, smtp.Reply) {
	if t.to[0].Local == "nobegin" {
		return nil, smtp.Reply{Code: 452, Enhanced: "4.3.1", Text: "No room"}
	}
	return []byte(prefix), smtp.Reply{}
}

func (t *transaction) Data(ctx context.Context, c *memory.Content) []smtp.Reply {
	o := t.owner
	if o.during != nil {
		o.during(ctx)
	}
	t.content = string(c.Body())
	t.mail.client = *t.client
	o.mu.Lock()
	defer o.mu.Unlock()
	replies := make([]smtp.Reply, len(t.to))
	for i, to := range t.to {
		switch to.Local {
		case "defer":
			replies[i] = smtp.Reply{Code: 451, Enhanced: "4.3.0", Text: "Later"}
		case "full":
			replies[i] = smtp.Reply{Code: 452, Enhanced: "4.3.1", Text: "Full"}
		case "unroutable":
			replies[i] = smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "Unroutable"}
		case "panicdata":
			panic("asked for")
		default:
			replies[i] = smtp.Reply{Code: 250, Enhanced: "2.0.0", Text: fmt.Sprintf("Ok: queued as %d", len(o.mails)+1)}
		}
	}
	if o.lmtp {
		o.mails = append(o.mails, t.mail)
		return replies
	}
	if !replies[0].Refuses() {
		o.mails = append(o.mails, t.mail)
	}
	return replies[:1]
}

func (t *transaction) Close() {
	t.owner.mu.Lock()
	defer t.owner.mu.Unlock()
	t.owner.closed++
}

// sink accepts everything and keeps nothing.
type sink struct{}

var taken = []smtp.Reply{{Code: 250, Enhanced: "2.0.0", Text: "Ok: queued as 0"}}

func (sink) Admit(context.Context, *smtp.Client) smtp.Reply                { return smtp.Reply{} }
func (sink) Auth(context.Context, *smtp.Client, string, string) smtp.Reply { return smtp.Reply{} }
func (sink) Refused(*smtp.Client, string, smtp.Reply)                      {}
func (sink) Rcpt(context.Context, address.Address, smtp.RcptParams) smtp.Reply {
	return smtp.Reply{}
}
func (sink) Begin(context.Context) ([]byte, smtp.Reply)         { return nil, smtp.Reply{} }
func (sink) Data(context.Context, *memory.Content) []smtp.Reply { return taken }
func (sink) Close()                                             {}

func (sink) Mail(context.Context, *smtp.Client, address.Address, smtp.MailParams) (smtp.Transaction, smtp.Reply) {
	return sink{}, smtp.Reply{}
}

// running is a session that Serve runs.
type running struct {
	*smtp.Session
	cut  context.CancelCauseFunc
	done chan struct{}
	err  error // of Serve, once done is closed
}

// wait returns what Serve returned.
func (r *running) wait() error {
	<-r.done
	return r.err
}

// errCut is the cause of the context that running.cut ends.
var errCut = errors.New("cut by the test")

// serve runs a session on c until the end of the test.
func serve(t testing.TB, c net.Conn, s *smtp.Settings, h smtp.Handler) *running {
	ctx, cut := context.WithCancelCause(context.Background())
	r := &running{Session: smtp.NewSession(c, s, h), cut: cut, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = r.Serve(ctx)
	}()
	t.Cleanup(func() {
		cut(errCut)
		<-r.done
	})
	return r
}

// listen serves every connection to the address it returns until the end of the test.
func listen(t testing.TB, s *smtp.Settings, h smtp.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cut := context.WithCancel(context.Background())
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { smtp.NewSession(c, s, h).Serve(ctx) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		cut()
		sessions.Wait()
	})
	return l.Addr().String()
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t testing.TB) (client, server net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, server
}
