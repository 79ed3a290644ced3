package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"lsmtpd/gateway/internal/faultnet"
)

// site is where a daemon lives: its directory and its ports. It outlives the process.
type site struct {
	dir       string
	amqp      string
	ports     map[string]int
	listeners map[string]string // address by name: the present configuration's
}

func newSite(t testing.TB, amqp string) *site {
	return &site{dir: t.TempDir(), amqp: amqp, ports: map[string]int{}}
}

func onLoopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// render fills in a configuration's template; see Options.Config.
func (s *site) render(text string) (string, error) {
	tmpl, err := template.New("lsmtpd.yaml").Funcs(template.FuncMap{"addr": s.listener, "port": s.port}).Parse(text)
	if err != nil {
		return "", err
	}
	s.listeners = map[string]string{}
	var b strings.Builder
	if err := tmpl.Execute(&b, struct{ Dir, AMQP string }{s.dir, s.amqp}); err != nil {
		return "", err
	}
	return b.String(), nil
}

// port is the same for the same name, as long as the site is.
func (s *site) port(name string) (int, error) {
	if port, ok := s.ports[name]; ok {
		return port, nil
	}
	port, err := faultnet.Port()
	if err == nil {
		s.ports[name] = port
	}
	return port, err
}

func (s *site) listener(name string) (string, error) {
	port, err := s.port(name)
	if err != nil {
		return "", err
	}
	s.listeners[name] = onLoopback(port)
	return s.listeners[name], nil
}

// write puts the configuration in its place at once, as an operator's editor would.
func (s *site) write(t testing.TB, text string) {
	t.Helper()
	rendered, err := s.render(text)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(s.dir, ".lsmtpd.yaml.next")
	if err := os.WriteFile(next, []byte(rendered), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, s.path()); err != nil {
		t.Fatal(err)
	}
}

func (s *site) path() string { return filepath.Join(s.dir, "lsmtpd.yaml") }
