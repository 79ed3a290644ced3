package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"lsmtpd/routes/config"

	"github.com/lmittmann/tint"
	"golang.org/x/sys/unix"
)

func TestLog_is_JSON_where_there_is_no_terminal(t *testing.T) {
	var b bytes.Buffer
	newLogging(&b, config.Log{Level: "info", Format: "auto"}).logger().Info("taken", "listener", "inbound", "size", 5)
	var line struct {
		Msg, Listener string
		Size          int
	}
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line.Msg != "taken" || line.Listener != "inbound" || line.Size != 5 {
		t.Errorf("%s: %v", b.String(), err)
	}
}

func TestLog_as_text_is_one_plain_line(t *testing.T) {
	var b bytes.Buffer
	log := newLogging(&b, config.Log{Level: "info", Format: "text"}).logger()
	log.Warn("refused", "sender", "a\x1b[31m\nb", "reply", "550 5.1.1 no such user")
	want := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+ WRN refused sender="a\\\\x1B\[31m\\nb" reply="550 5.1.1 no such user"\n$`)
	if !want.MatchString(b.String()) {
		t.Errorf("%q", b.String())
	}
}

func TestLog_passes_no_escape_sequence_on_to_a_terminal(t *testing.T) {
	attacks := []string{
		"\x1b[2Jgone", "a \x1b]0;title\a", "\x1b[31mred", `\x1b[31m in letters, and a blank`, "\u009b31m", "x\ny", "a\u202eb",
	}
	for _, attack := range attacks {
		var b bytes.Buffer
		l := newLogging(&b, config.Log{Level: "info", Format: "text"})
		l.toText = tint.NewTextHandler(&b, &tint.Options{Level: &l.level, ReplaceAttr: shown}) // in colours
		values := []any{"s", attack, "error", errors.New(attack), "list", []string{attack}, "octets", []byte(attack), slog.Group("g", "s", attack)}
		l.logger().With(values...).Info(attack, values...)
		out := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllStringFunc(b.String(), func(color string) string {
			if color == "\x1b[31m" {
				return color
			}
			return ""
		})
		if strings.ContainsFunc(strings.TrimSuffix(out, "\n"), func(r rune) bool { return r == '\n' || obeyed(r) }) {
			t.Errorf("%q: %q", attack, out)
		}
	}
}

func TestLog_as_JSON_holds_nothing_that_a_terminal_would_obey(t *testing.T) {
	for _, attack := range []string{"\u009b31m", "\x7f", "a\u202eb", "\u200bc", "\xff", "\x1b[2J"} {
		var b bytes.Buffer
		log := newLogging(&b, config.Log{Level: "info", Format: "json"}).logger()
		log.With("helo", attack).Info("refused", "user", attack, "error", errors.New(attack), "count", 3, "report", struct{ Name string }{"x"})
		if strings.ContainsFunc(strings.TrimSuffix(b.String(), "\n"), obeyed) {
			t.Errorf("%q: %q", attack, b.String())
		}
		var line struct {
			Count  int
			Report struct{ Name string }
		}
		if err := json.Unmarshal(b.Bytes(), &line); err != nil || line.Count != 3 || line.Report.Name != "x" {
			t.Errorf("%q: %v in %s", attack, err, b.String())
		}
	}
}

func TestLog_writes_values_of_every_kind(t *testing.T) {
	var b bytes.Buffer
	log := newLogging(&b, config.Log{Level: "info", Format: "text"}).logger()
	log.Info("x", "n", 1, "d", 2*time.Second, "a", netip.MustParseAddr("192.0.2.1"), "l", []string{"a", "b"}, "nil", nil, "none", (*url.URL)(nil))
	if want := ` INF x n=1 d=2s a=192.0.2.1 l="[a b]" nil=<nil> none=<nil>` + "\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("%q, want it to end in %q", b.String(), want)
	}
}

func TestLog_leaves_out_what_is_below_its_level(t *testing.T) {
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1} {
		var b bytes.Buffer
		log := newLogging(&b, config.Log{Level: level, Format: "text"}).logger()
		log.Debug("x")
		log.Info("x")
		log.Warn("x")
		log.Error("x")
		if got := strings.Count(b.String(), "\n"); got != want {
			t.Errorf("%s: %d lines, want %d", level, got, want)
		}
	}
}

func TestLog_changes_level_and_format_under_loggers_made_before(t *testing.T) {
	var b bytes.Buffer
	l := newLogging(&b, config.Log{Level: "warn", Format: "json"})
	log := l.logger().With("listener", "inbound").WithGroup("mail").With("id", 7)
	log.Info("hidden")
	l.set(config.Log{Level: "info", Format: "text"})
	log.Info("shown", "size", 3)
	if want := "INF shown listener=inbound mail.id=7 mail.size=3\n"; !strings.HasSuffix(b.String(), want) || strings.Contains(b.String(), "hidden") {
		t.Errorf("%q, want it to end in %q", b.String(), want)
	}
	b.Reset()
	l.set(config.Log{Level: "info", Format: "json"})
	log.Info("shown", "size", 3)
	if want := `"listener":"inbound","mail":{"id":7,"size":3}}`; !strings.Contains(b.String(), want) {
		t.Errorf("%s, want %s", b.String(), want)
	}
}

func BenchmarkLog(b *testing.B) {
	for _, format := range []string{"text", "json"} {
		b.Run(format, func(b *testing.B) {
			log := newLogging(discard{}, config.Log{Level: "info", Format: format}).logger().With("listener", "inbound")
			b.ReportAllocs()
			for b.Loop() {
				log.LogAttrs(b.Context(), slog.LevelInfo, "mail", slog.String("id", "cf4c844f"), slog.String("sender", "a@example.com"), slog.Int("size", 1234))
			}
		})
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func TestLog_on_a_terminal_is_text_in_colours_unless_told_otherwise(t *testing.T) {
	tests := []struct{ format, noColor, want string }{
		{"auto", "", "\x1b[92mINF\x1b[0m shown \x1b[2msize=\x1b[0m3\r\n"},
		{"auto", "1", " INF shown size=3\r\n"},
		{"json", "", `"msg":"shown","size":3}` + "\r\n"},
	}
	for _, test := range tests {
		t.Setenv("NO_COLOR", test.noColor)
		screen, terminal := openTerminal(t)
		newLogging(terminal, config.Log{Level: "info", Format: test.format}).logger().Info("shown", "size", 3)
		line, err := bufio.NewReader(screen).ReadString('\n')
		if err != nil || !strings.HasSuffix(line, test.want) {
			t.Errorf("%s: %q, want it to end in %q, %v", test.format, line, test.want, err)
		}
	}
}

// openTerminal returns a terminal and what is seen on its screen.
func openTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here: ", err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return screen, terminal
}
