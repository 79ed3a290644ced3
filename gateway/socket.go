package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lsmtpd/gateway/listen"
	"lsmtpd/routes/config"
)

// adminPatience is how long an answer under way may take once the daemon stops.
const adminPatience = 5 * time.Second

// adminSocket serves the operator's handler on the socket that the table names.
type adminSocket struct {
	handler http.Handler // set before the first Apply
	log     *slog.Logger
	serving sync.WaitGroup
	ending  context.Context // ends: what is still answered is cut
	end     context.CancelFunc

	socket atomic.Pointer[listen.UnixSocket] // in use; nil where there is none. Apply alone sets it

	// owned by Apply
	path   string // of the socket in use; "" where there is none
	server *http.Server
}

// adminChange is a socket that is bound, and not served yet.
type adminChange struct {
	admin  *adminSocket
	path   string
	socket *listen.UnixSocket // nil where there shall be none
	made   []string           // directories, the innermost first
	keep   bool
}

// prepare binds the socket of c. A default that cannot be bound is a warning, a configured one an error.
func (a *adminSocket) prepare(c config.Admin) (change *adminChange, warning string, err error) {
	change = &adminChange{admin: a, path: c.Socket}
	switch {
	case a.handler == nil:
		change.path = ""
	case c.Socket == a.path:
		change.keep = true
		return change, "", nil
	}
	if change.path == "" {
		return change, "", nil
	}
	change.socket, change.made, err = bindAdmin(c.Socket)
	if err != nil && c.SocketIsDefault {
		change.path = ""
		return change, fmt.Sprintf("no admin socket, so that reload, status, spool and tail cannot reach this process: %v", err), nil
	}
	if err != nil {
		return nil, "", err
	}
	return change, "", nil
}

// bindAdmin makes the socket's directory where it is missing, and returns which directories it made, the innermost first; of an
// attempt in vain none is left. A directory that others may write to could hold a socket of theirs.
func bindAdmin(path string) (socket *listen.UnixSocket, made []string, err error) {
	dir := filepath.Dir(path)
	made = missing(dir)
	if err = os.MkdirAll(dir, 0o700); err == nil {
		err = checkAdminDirectory(path)
	}
	if err == nil {
		socket, err = listen.Unix(path, 0o600)
	}
	if err != nil {
		removeEmpty(made)
		return nil, nil, err
	}
	return socket, made, nil
}

// checkAdminDirectory refuses a directory of the socket at path that others may write to.
func checkAdminDirectory(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, uid := int(info.Sys().(*syscall.Stat_t).Uid), os.Geteuid()
	open := info.Mode().Perm()&0o022 != 0
	switch {
	case !open && (owner == uid || owner == 0):
		return nil
	case owner == uid && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("others may write to the directory %s: name another, or: chmod 700 %s", dir, dir)
	}
	return fmt.Errorf("others may write to the directory %s, which is not lsmtpd's alone: name a socket in a directory of its own, such as %s",
		dir, filepath.Join(os.TempDir(), fmt.Sprintf("lsmtpd-%d", uid), filepath.Base(path)))
}

// missing returns dir and those above it that are not there, the innermost first.
func missing(dir string) []string {
	var all []string
	for {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return all
		}
		all = append(all, dir)
		dir = filepath.Dir(dir)
	}
}

// removeEmpty removes directories as far as nothing is in them.
func removeEmpty(dirs []string) {
	for _, dir := range dirs {
		if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// Commit serves the new socket; the old one finishes what it answers: the call that asked for this, perhaps, and a tail that
// goes on for days.
func (c *adminChange) Commit() {
	if c.keep {
		return
	}
	a := c.admin
	if old := a.server; old != nil {
		a.serving.Go(func() { shut(a.ending, old) })
	}
	a.path, a.server = c.path, nil
	a.socket.Store(c.socket)
	if c.socket == nil {
		return
	}
	server := &http.Server{Handler: a.handler, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	a.server = server
	a.serving.Go(func() {
		if err := server.Serve(c.socket); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("the admin socket failed", "path", c.path, "error", err)
		}
	})
}

// Abort closes what prepare bound, and removes the directories that it made.
func (c *adminChange) Abort() {
	if c.socket != nil {
		c.socket.Close()
		removeEmpty(c.made)
	}
}

// mend makes the socket again if somebody removed its file, and tells so, or why it cannot be reached; "" where nothing is wrong.
func (a *adminSocket) mend() (told string) {
	old := a.socket.Load()
	if old == nil {
		return ""
	}
	gone, err := old.Gone()
	if gone {
		var socket *listen.UnixSocket
		if socket, _, err = bindAdmin(a.path); err == nil {
			(&adminChange{admin: a, path: a.path, socket: socket}).Commit()
			return "the file of the admin socket " + a.path + " was gone: it is made again"
		}
	}
	if err != nil {
		return adminUnreachable(a.path, err)
	}
	return ""
}

// unreachable tells why nobody finds the socket now; "" where it is found. Who asks came by another name of it.
func (a *adminSocket) unreachable() string {
	socket := a.socket.Load()
	if socket == nil {
		return ""
	}
	if err := socket.Lost(); err != nil {
		return adminUnreachable(socket.Addr().String(), err)
	}
	return ""
}

func adminUnreachable(path string, err error) string {
	return fmt.Sprintf("nobody can connect to the admin socket %s: %v", path, err)
}

// close stops serving.
func (a *adminSocket) close() {
	timer := time.AfterFunc(adminPatience, a.end)
	defer timer.Stop()
	if a.server != nil {
		shut(a.ending, a.server)
	}
	a.serving.Wait()
	a.end()
}

// shut takes no more requests, and cuts those under way when ctx ends.
func shut(ctx context.Context, s *http.Server) {
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}
