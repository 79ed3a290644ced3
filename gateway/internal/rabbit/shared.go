package rabbit

import (
	"context"
	"os"
	"sync"
	"testing"
)

// URLVariable names, in the environment, a broker that the tests of all packages may share: devnode's.
const URLVariable = "LSMTPD_TEST_AMQP_URL"

// shared is this test process's node for tests that leave a broker as they found it.
var shared struct {
	once sync.Once
	node *Node
	err  error
}

// Shared returns a broker that many tests use at once, under names of their own (see Queue): the one named by
// LSMTPD_TEST_AMQP_URL, else one that is started for this test process. It is not to be stopped, killed, frozen or alarmed;
// tests that do such things Start their own.
func Shared(t testing.TB) *Node {
	t.Helper()
	shared.once.Do(func() {
		if url := os.Getenv(URLVariable); url != "" {
			shared.node = &Node{url: url}
			return
		}
		shared.node, shared.err = Start(context.Background(), Options{})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.node
}

// New starts a node for t alone, which is gone when t ends.
func New(t testing.TB, o Options) *Node {
	t.Helper()
	n, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// Main is the TestMain of a package whose tests call Shared: it removes what Shared started. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if shared.node != nil {
		shared.node.Close()
	}
	os.Exit(code)
}
