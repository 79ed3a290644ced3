package gateway

import (
	"os"
	"slices"
	"strings"
	"testing"

	"lsmtpd/gateway/internal/amqptest"
	"lsmtpd/gateway/internal/smtptest"
	"lsmtpd/routes"
)

func TestMail_comes_in_by_a_Unix_socket_which_goes_with_its_listener_and_never_another_file(t *testing.T) {
	path := "/in.sock"
	h := newHouse(t, entry("a", port(t)))
	address := "unix:" + h.dir + path
	h.must(h.apply(h.config(entry("a", address))))
	info, err := os.Lstat(h.dir + path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info, err)
	}
	c := smtptest.Open(t, address)
	if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "x"); r.Code() != 250 {
		t.Fatal(r)
	}
	if l := h.Status().Listeners[0]; l.Bound != address || l.Sessions != 1 || l.Accepted != 1 {
		t.Errorf("status %+v", l)
	}
	files, err := os.ReadDir(h.dir + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(h.dir + "/spool/" + f.Name())
		if err != nil || !strings.Contains(string(b), `"client_ip":""`) || !strings.Contains(string(b), `Received: from client.example\r\n\tby `) {
			t.Errorf("spooled as %s, %v", b, err)
		}
	}
	h.must(h.apply(h.config(entry("a", address, "size_limit: 1KiB"))))
	if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "x"); r.Code() != 250 {
		t.Errorf("after a reload that keeps it: %q", r)
	}
	if err := os.Rename(h.dir+path, h.dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.dir+path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must(h.apply(h.config(entry("a", port(t)))))
	c.Want("421 4.3.2 Service not available, closing")
	if b, err := os.ReadFile(h.dir + path); string(b) != "precious" {
		t.Errorf("the file in its place: %q, %v", b, err)
	}
}

func TestA_Unix_socket_whose_file_was_removed_is_made_again_by_a_reload_and_by_one_that_changes_nothing(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	path, admin := h.dir+"/in.sock", h.dir+"/admin.sock"
	address := "unix:" + path
	double := amqptest.Start(t) // one that is away is told of, too
	config := func(listener string) string {
		return strings.Replace(h.config(listener), quote(nowhere), quote(double.URL()), 1)
	}
	h.must(h.apply(config(entry("a", address))))
	if told := h.Mend(); told.Listeners != nil || told.Warnings != nil {
		t.Errorf("with nothing to mend %+v", told)
	}
	c := smtptest.Open(t, address)
	for i, mend := range []func() routes.Applied{
		h.Mend,
		func() routes.Applied { return h.must(h.apply(config(entry("a", address, "routing_key: b")))) },
	} {
		for _, gone := range []string{path, admin} {
			if err := os.Remove(gone); err != nil {
				t.Fatal(err)
			}
		}
		told := mend()
		want := []routes.AppliedListener{{Name: "a", Address: address, Action: routes.Remade, Sessions: 1}}
		if !slices.Equal(told.Listeners, want) || told.Generation != uint64(2+i) {
			t.Errorf("told %+v, want %+v", told, want)
		}
		if want := []string{"the file of the admin socket " + admin + " was gone: it is made again"}; !slices.Equal(told.Warnings, want) {
			t.Errorf("warnings %q, want %q", told.Warnings, want)
		}
		if r := c.SendMail("ann@client.example", []string{"bob@example.com"}, "x"); r.Code() != 250 {
			t.Errorf("on the session of before: %q", r)
		}
		visitor := smtptest.Open(t, address)
		visitor.Do("QUIT")
		eventually(t, "he has gone", func() bool { return h.Status().Listeners[0].Sessions == 1 })
		if got := get(admin); got != "404 page not found\n" {
			t.Errorf("the admin socket answers %q", got)
		}
	}
}

func TestAnother_file_in_the_place_of_a_Unix_socket_is_told_of_and_left_alone(t *testing.T) {
	h := newHouse(t, entry("a", port(t)))
	path, admin := h.dir+"/in.sock", h.dir+"/admin.sock"
	h.must(h.apply(h.config(entry("a", "unix:"+path))))
	for _, place := range []string{path, admin} {
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const moved = ": another file is in the place of its socket: move that away, and reload"
	told := h.must(h.apply(h.config(entry("a", "unix:"+path, "routing_key: b"))))
	want := []string{"nobody can connect to unix:" + path + moved, "nobody can connect to the admin socket " + admin + moved}
	if actions(told) != "a kept" || !slices.Equal(told.Warnings[len(told.Warnings)-2:], want) {
		t.Errorf("told %+v, want %q", told, want)
	}
	for range 2 { // as long as it is so
		if s := h.Status(); s.Listeners[0].Unreachable != want[0] || s.Admin != want[1] {
			t.Errorf("status: listener %q, admin %q", s.Listeners[0].Unreachable, s.Admin)
		}
	}
	for _, place := range []string{path, admin} {
		if b, err := os.ReadFile(place); string(b) != "precious" {
			t.Errorf("%s: %q, %v", place, b, err)
		}
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
	}
	const gone = ": its file is gone: a reload makes it again"
	want = []string{"nobody can connect to unix:" + path + gone, "nobody can connect to the admin socket " + admin + gone}
	if s := h.Status(); s.Listeners[0].Unreachable != want[0] || s.Admin != want[1] {
		t.Errorf("status: listener %q, admin %q", s.Listeners[0].Unreachable, s.Admin)
	}
	h.Mend()
	if s := h.Status(); s.Listeners[0].Unreachable != "" || s.Admin != "" {
		t.Errorf("mended, status: listener %q, admin %q", s.Listeners[0].Unreachable, s.Admin)
	}
}
