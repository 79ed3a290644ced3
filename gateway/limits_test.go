package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes"
	"lsmtpd/routes/config"

	"pgregory.net/rapid"
)

// limited is a listener that nobody listens on.
func limited(c config.Listener) *listener {
	return &listener{Listener: &routes.Listener{Listener: &c}, state: &state{}}
}

func (l *listener) from(ip string) clientOf { return l.state.client(netip.MustParseAddr(ip)) }

func TestEach_limit_of_connections_is_its_own(t *testing.T) {
	now := time.Now()
	var x limits
	l, other := limited(config.Listener{MaxConnections: 3, MaxConnectionsPerClient: 2}), limited(config.Listener{})
	const process = 4
	for _, step := range []struct {
		to   *listener
		from string
		want crowd
	}{
		{l, "192.0.2.1", nobody},
		{l, "192.0.2.1", nobody},
		{l, "::ffff:192.0.2.1", crowded}, // the client's limit: the same address in another dress
		{l, "192.0.2.2", nobody},
		{l, "192.0.2.3", crowded}, // the listener's
		{other, "192.0.2.1", nobody},
		{other, "192.0.2.4", crowded}, // the process's
	} {
		if got := x.enter(step.to, process, step.to.from(step.from), now); got != step.want {
			t.Errorf("%s: %v, want %v", step.from, got, step.want)
		}
	}
	x.leave(l.from("192.0.2.1"), now)
	if got := x.enter(l, process, l.from("192.0.2.1"), now); got != nobody {
		t.Error("what one left nobody else can have")
	}
	for _, who := range []clientOf{l.from("192.0.2.1"), l.from("192.0.2.1"), l.from("192.0.2.2"), other.from("192.0.2.1")} {
		x.leave(who, now)
	}
	if x.connections() != 0 || l.state.open != 0 || len(x.clients) != 0 {
		t.Errorf("all have left, and are remembered: %d, %d, %v", x.connections(), l.state.open, x.clients)
	}
}

func TestA_client_is_an_IPv4_address_or_a_network_of_64_bits_or_on_a_Unix_socket_nobody(t *testing.T) {
	now := time.Now()
	var x limits
	l := limited(config.Listener{MaxConnectionsPerClient: 1, Rate: &config.Rate{Messages: 1, Connections: 1, Per: time.Hour}})
	for _, step := range []struct {
		who  clientOf
		want crowd
	}{
		{l.from("2001:db8::1"), nobody},
		{l.from("2001:db8::ffff:1"), crowded},
		{l.from("2001:db8:0:1::1"), nobody},
		{l.from("fe80::1%eth0"), nobody},
		{l.from("fe80::2%eth1"), crowded},
		{l.state.client(netip.Addr{}), nobody},
		{l.state.client(netip.Addr{}), nobody},
	} {
		if got := x.enter(l, 0, step.who, now); got != step.want {
			t.Errorf("%v: %v, want %v", step.who.network, got, step.want)
		}
	}
	for range 2 {
		if !x.message(l, l.state.client(netip.Addr{}), now) {
			t.Error("a rate for everybody on a Unix socket together")
		}
	}
	if !x.message(l, l.from("2001:db8::2"), now) || x.message(l, l.from("2001:db8::3"), now) {
		t.Error("a network is not one client")
	}
}

// In any stretch of time a client gets what the rate gives in it, and the burst; and it gets all of that.
func TestA_bucket_gives_the_burst_and_then_the_rate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		r := &config.Rate{
			Per:   time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(24*time.Hour)).Draw(t, "per")),
			Burst: rapid.IntRange(0, 1000).Draw(t, "burst"),
		}
		burst := r.Burst
		if burst == 0 {
			burst = n
		}
		each := float64(r.Per) / float64(n)
		begun := time.Unix(1_700_000_000, 0)
		var b bucket
		now, taken := begun, 0
		for _, pause := range rapid.SliceOfN(rapid.Float64Range(0, 3), 1, 20).Draw(t, "pauses") {
			now = now.Add(time.Duration(pause * each))
			for b.take(r, n, now) {
				taken++
			}
			rounded := float64(taken) / each // a nanosecond each
			if most := float64(burst) + float64(now.Sub(begun))/each + rounded + 0.01; float64(taken) > most {
				t.Fatalf("%d taken in %v, %.2f would be right", taken, now.Sub(begun), most)
			}
		}
		if taken < burst {
			t.Fatalf("%d taken at once of a burst of %d", taken, burst)
		}
		if now = now.Add(time.Duration(each) + 2); !b.take(r, n, now) {
			t.Fatal("an empty bucket got nothing")
		}
		if now = now.Add(time.Duration(each*float64(burst)) + time.Duration(burst) + 1); !b.full(now) {
			t.Fatal("not full again")
		}
	})
}

func TestA_bucket_can_be_read_with_another_rate(t *testing.T) {
	slow := &config.Rate{Per: 24 * time.Hour, Burst: 1_000_000}
	fast := &config.Rate{Per: time.Second}
	now := time.Now()
	var b bucket
	for range 1000 {
		b.take(slow, 1, now)
	}
	if b.take(fast, 10, now) {
		t.Error("one who took a thousand is at his limit")
	}
	if !b.take(fast, 10, now.Add(101*time.Millisecond)) {
		t.Error("held back for what another rate said")
	}
}

func TestA_flood_of_addresses_costs_a_bounded_memory(t *testing.T) {
	var x limits
	l := limited(config.Listener{Rate: &config.Rate{Messages: 1, Per: 24 * time.Hour}, MaxConnectionsPerClient: 1})
	now := time.Now()
	stays := l.from("192.0.2.1")
	if x.enter(l, 0, stays, now) != nobody {
		t.Fatal("not let in")
	}
	ip := netip.MustParseAddr("10.0.0.0")
	for range 3 * mostClients {
		ip = ip.Next()
		x.message(l, l.state.client(ip), now)
		if len(x.clients) > mostClients {
			t.Fatalf("%d clients are remembered", len(x.clients))
		}
	}
	if x.enter(l, 0, stays, now) != crowded {
		t.Error("a session that is here was forgotten")
	}
	if x.message(l, l.state.client(ip), now) {
		t.Error("the last one was forgotten")
	}
}

// dial connects from a loopback address and returns the greeting.
func dial(t *testing.T, address, from string) (*smtptest.Client, string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := smtptest.NewClient(conn)
	t.Cleanup(func() { c.Close() })
	greeting, err := c.Receive()
	if err != nil {
		t.Fatal(err)
	}
	return c, string(greeting)
}

// begins checks how a reply begins.
func begins(t *testing.T, what, reply, want string) {
	t.Helper()
	if !strings.HasPrefix(reply, want) {
		t.Errorf("%s: %q, want %s", what, reply, want)
	}
}

func TestLimits_of_connections_are_in_force_at_once_across_reloads(t *testing.T) {
	address := port(t)
	h := newHouse(t, entry("a", address, "max_connections: 2"))
	first, greeting := dial(t, address, "127.0.0.1")
	begins(t, "the first", greeting, "220 ")
	_, greeting = dial(t, address, "127.0.0.2")
	begins(t, "the second", greeting, "220 ")
	_, greeting = dial(t, address, "127.0.0.3")
	begins(t, "over the listener's limit", greeting, "421 4.3.2 ")

	h.must(h.apply(h.config(entry("a", address, "max_connections_per_client: 1"))))
	_, greeting = dial(t, address, "127.0.0.2")
	begins(t, "over the client's limit, whose session is older than that", greeting, "421 4.3.2 ")
	_, greeting = dial(t, address, "127.0.0.3")
	begins(t, "another client", greeting, "220 ")

	h.must(h.apply("limits: {connections: 3}\n" + h.config(entry("a", address))))
	_, greeting = dial(t, address, "127.0.0.4")
	begins(t, "over the limit of the process", greeting, "421 4.3.2 ")
	first.Close()
	eventually(t, "room for another", func() bool {
		c, greeting := dial(t, address, "127.0.0.4")
		defer c.Close()
		return strings.HasPrefix(greeting, "220 ")
	})
	if n := h.Status().Listeners[0].Refused; n < 3 {
		t.Errorf("%d refusals are counted", n)
	}
}

func TestWho_comes_too_often_is_told_so_when_he_connects(t *testing.T) {
	address := port(t)
	rate := "rate: {connections: 1, per: 24h, burst: 2}"
	h := newHouse(t, entry("a", address, rate))
	for range 2 {
		_, greeting := dial(t, address, "127.0.0.1")
		begins(t, "within the burst", greeting, "220 ")
	}
	h.must(h.apply(h.config(entry("a", address, rate, "routing_key: k"))))
	_, greeting := dial(t, address, "127.0.0.1")
	begins(t, "over the burst, and after a reload", greeting, "421 4.7.0 ")
	_, greeting = dial(t, address, "127.0.0.2")
	begins(t, "another client", greeting, "220 ")
	h.must(h.apply(h.config(entry("a", address))))
	_, greeting = dial(t, address, "127.0.0.1")
	begins(t, "without a rate", greeting, "220 ")
}

func TestWho_sends_too_often_is_told_so_at_MAIL(t *testing.T) {
	address := port(t)
	h := newHouse(t, entry("a", address))
	c, _ := dial(t, address, "127.0.0.1")
	mail := func(c *smtptest.Client) string {
		t.Helper()
		reply, err := c.Exchange("MAIL FROM:<a@example.com>")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exchange("RSET"); err != nil {
			t.Fatal(err)
		}
		return string(reply)
	}
	c.Exchange("EHLO client.example")
	begins(t, "without a rate", mail(c), "250 ")
	h.must(h.apply(h.config(entry("a", address, "rate: {messages: 1, per: 24h, burst: 2}"))))
	begins(t, "the first", mail(c), "250 ")
	begins(t, "the second", mail(c), "250 ")
	begins(t, "over the burst", mail(c), "450 4.7.1 ")
	again, _ := dial(t, address, "127.0.0.1")
	again.Exchange("EHLO client.example")
	begins(t, "by another connection", mail(again), "450 4.7.1 ")
	other, _ := dial(t, address, "127.0.0.2")
	other.Exchange("EHLO client.example")
	begins(t, "another client", mail(other), "250 ")
}

func TestConnections_far_over_the_limit_are_cut_off(t *testing.T) {
	address := port(t)
	h := newHouse(t, entry("a", address))
	h.must(h.apply("limits: {connections: 1}\n" + h.config(entry("a", address))))
	dial(t, address, "127.0.0.1")
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	cut := func(c net.Conn) bool {
		b := make([]byte, 1)
		_, err := c.Read(b)
		return err != nil
	}
	eventually(t, "one cut off", func() bool {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		return cut(c)
	})
	if len(conns) < mostOutsideClient {
		t.Errorf("after %d", len(conns))
	}
}

func TestWho_is_not_let_in_at_one_listener_is_in_nobodys_way_at_another(t *testing.T) {
	closed, open := port(t), port(t)
	config := entry("closed", closed, "allow: [192.0.2.0/24]") + entry("open", open)
	h := newHouse(t, config)
	h.must(h.apply("limits: {connections: 5}\n" + h.config(config)))
	cut := 0
	for range 4 * mostOutsideClient {
		c, err := net.Dial("tcp", closed)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			cut++
		} else if !strings.HasPrefix(line, "554 5.7.1 ") {
			t.Fatalf("greeted with %q", line)
		}
	}
	if told := 4*mostOutsideClient - cut; told != mostOutsideClient {
		t.Errorf("%d are told why", told)
	}
	_, greeting := dial(t, open, "127.0.0.1")
	begins(t, "at the other listener", greeting, "220 ")
	_, greeting = dial(t, closed, "127.0.0.2")
	begins(t, "another client", greeting, "554 5.7.1 ")
}

func TestOutside_each_listener_and_each_client_has_room(t *testing.T) {
	var x limits
	a, b := &state{}, &state{}
	ip := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}) }
	for n := range mostOutsideListener {
		if !x.arrive(a.client(ip(n))) {
			t.Fatalf("no room for number %d", n)
		}
	}
	if x.arrive(a.client(ip(1000))) {
		t.Error("room beyond the listener's")
	}
	for n := range mostOutsideClient {
		if !x.arrive(b.client(ip(0))) {
			t.Fatalf("no room for number %d", n)
		}
	}
	if x.arrive(b.client(ip(0))) {
		t.Error("room beyond the client's")
	}
	var others []*state
	for x.outside < mostOutside {
		s := &state{}
		others = append(others, s)
		for n := range mostOutsideListener {
			x.arrive(s.client(ip(n)))
		}
	}
	if x.arrive(others[0].client(ip(2000))) {
		t.Error("room beyond the process's")
	}
	if !x.arrive((&state{}).client(ip(2000))) {
		t.Error("no room at a listener with nobody outside")
	}
	for n := range mostOutsideListener {
		x.depart(a.client(ip(n)))
	}
	if a.outside != 0 || !x.arrive(a.client(ip(0))) {
		t.Errorf("%d left outside", a.outside)
	}
}

func TestLimits_connections_is_lowered_to_what_the_descriptors_leave(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	applied := h.must(h.apply("limits: {connections: 2147483647}\n" + h.config(entry("a", port(t)))))
	want := "lsmtpd.yaml:1:23: limits.connections: 2147483647 are too many for "
	if !slices.ContainsFunc(applied.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
		t.Errorf("warnings: %q", applied.Warnings)
	}
	most := h.running.Load().most
	if most <= 0 || most > 1<<30 {
		t.Errorf("%d connections are taken", most)
	}
	applied = h.must(h.apply(fmt.Sprintf("limits: {connections: %d}\n", most) + h.config(entry("a", port(t)))))
	if len(applied.Warnings) > 1 { // the broker is away
		t.Errorf("warnings: %q", applied.Warnings)
	}
}

func BenchmarkEnterAndLeave(b *testing.B) {
	var x limits
	l := limited(config.Listener{MaxConnectionsPerClient: 1, Rate: &config.Rate{Connections: 1e9, Per: time.Second}})
	who, now := l.from("192.0.2.1"), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		x.enter(l, 10, who, now)
		x.leave(who, now)
	}
}
