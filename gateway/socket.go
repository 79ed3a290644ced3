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

	// owned by Apply
	path   string // of the socket in use; "" where there is none
	server *http.Server
}

// adminChange is a socket that is bound, and not served yet.
type adminChange struct {
	admin  *adminSocket
	path   string
	socket *listen.UnixSocket // nil where there shall be none
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
	change.socket, err = bindAdmin(c.Socket)
	if err != nil && c.SocketIsDefault {
		change.path = ""
		return change, fmt.Sprintf("no admin socket, so that reload, status and tail cannot reach this process: %v", err), nil
	}
	if err != nil {
		return nil, "", err
	}
	return change, "", nil
}

// bindAdmin makes the socket's directory where it is missing. One that others may write to could hold a socket of theirs.
func bindAdmin(path string) (*listen.UnixSocket, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if info, err = os.Stat(dir); err != nil {
			return nil, err
		}
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if own := int(owner) == os.Geteuid() || owner == 0; !own || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("others may write to the directory %s: name another, or: chmod 700 %s", dir, dir)
	}
	return listen.Unix(path, 0o600)
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

// Abort closes what prepare bound.
func (c *adminChange) Abort() {
	if c.socket != nil {
		c.socket.Close()
	}
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
