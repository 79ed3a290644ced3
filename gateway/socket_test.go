package gateway

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lsmtpd/routes/config"
)

func TestThe_advice_about_an_admin_socket_closes_no_directory_that_is_shared(t *testing.T) {
	for _, c := range []struct {
		name       string
		mode       os.FileMode
		owner      int // -1: ours
		want, none string
	}{
		{"ours alone", 0o700, -1, "", "chmod"},
		{"ours, and others read it", 0o755, -1, "", "chmod"},
		{"ours, and a group writes to it", 0o770, -1, "chmod 700 DIR", "its own"},
		{"sticky", os.ModeSticky | 0o777, -1, "name a socket in a directory of its own, such as /", "chmod"},
		{"another's", 0o755, 12345, "name a socket in a directory of its own, such as /", "chmod"},
		{"another's and sticky", os.ModeSticky | 0o777, 12345, "name a socket in a directory of its own, such as /", "chmod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.owner >= 0 && os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			dir, err := os.MkdirTemp("", "socket")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if c.owner >= 0 {
				err = os.Chown(dir, c.owner, c.owner)
			}
			if err == nil {
				err = os.Chmod(dir, c.mode)
			}
			if err != nil {
				t.Fatal(err)
			}
			socket, made, err := bindAdmin(filepath.Join(dir, "admin.sock"))
			if err == nil {
				socket.Close()
			}
			text := errorText(err)
			if want := strings.ReplaceAll(c.want, "DIR", dir); (text == "") != (want == "") || !strings.Contains(text, want) || strings.Contains(text, c.none) || len(made) > 0 {
				t.Errorf("error %q, made %v", text, made)
			}
		})
	}
}

func TestA_default_admin_socket_that_cannot_be_bound_is_a_warning_that_names_what_is_out_of_reach(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "made", strings.Repeat("n", 120))
	h := newHouse(t, entry("a", port(t)))
	change, warning, err := h.admin.prepare(config.Admin{Socket: path, SocketIsDefault: true})
	if err != nil || !strings.HasPrefix(warning, "no admin socket, so that reload, status, spool and tail cannot reach this process: ") {
		t.Errorf("warning %q, error %v", warning, err)
	}
	change.Abort()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
