package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"lsmtpd/routes/config"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// logging is the daemon's log, whose level and format may be changed while others write through its handlers.
type logging struct {
	terminal bool
	level    slog.LevelVar
	json     atomic.Bool

	toText, toJSON slog.Handler

	config config.Log // as set; one goroutine at a time sets it
}

// newLogging returns a log that writes to w as c says, in colours only where w is a terminal that has not been asked for
// none (NO_COLOR, https://no-color.org).
func newLogging(w io.Writer, c config.Log) *logging {
	l := &logging{terminal: isTerminal(w)}
	format := "2006-01-02T15:04:05.000Z07:00"
	if l.terminal {
		format = "15:04:05.000"
	}
	plain := !l.terminal || os.Getenv("NO_COLOR") != ""
	l.toText = tint.NewTextHandler(w, &tint.Options{Level: &l.level, TimeFormat: format, NoColor: plain, ReplaceAttr: shown})
	json := slog.HandlerOptions{Level: &l.level, ReplaceAttr: escaped}
	if l.terminal {
		json.ReplaceAttr = shown
	}
	l.toJSON = slog.NewJSONHandler(w, &json)
	l.set(c)
	return l
}

// set puts another level and format in force, for every logger made before as well, and returns those that were.
func (l *logging) set(c config.Log) (before config.Log) {
	before, l.config = l.config, c
	var level slog.Level // info, which is also what an unknown word would mean
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	l.level.Set(level)
	l.json.Store(c.Format == "json" || c.Format != "text" && !l.terminal)
	return before
}

func (l *logging) logger() *slog.Logger {
	return slog.New(&logHandler{log: l, text: l.toText, json: l.toJSON})
}

// logHandler carries the attributes of one logger in both formats and writes in the one that is in force.
type logHandler struct {
	log        *logging
	text, json slog.Handler
}

func (h *logHandler) current() slog.Handler {
	if h.log.json.Load() {
		return h.json
	}
	return h.text
}

// Enabled tells whether a record of that level is written.
func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.log.level.Level()
}

// Handle writes r.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.current().Handle(ctx, r)
}

// WithAttrs returns a handler whose records carry attrs too.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{log: h.log, text: h.text.WithAttrs(attrs), json: h.json.WithAttrs(attrs)}
}

// WithGroup returns a handler that puts what follows into a group.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{log: h.log, text: h.text.WithGroup(name), json: h.json.WithGroup(name)}
}

// shown makes an attribute, or the message, such that a terminal shows all of it and obeys none of it. Tint would not: it
// takes escape sequences in values for colours that were meant, even those written as \x1b; hence the capital B.
func shown(groups []string, a slog.Attr) slog.Attr {
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case slog.Level:
			return a
		case []byte:
			text = string(v)
		default:
			text = fmt.Sprintf("%+v", v)
		}
	default:
		return a
	}
	if len(groups) == 0 && a.Key == slog.MessageKey {
		text = printableLine(text) // nobody quotes the message
	}
	return slog.String(a.Key, strings.ReplaceAll(printable(text), `\x1b`, `\x1B`))
}

// escaped makes text in an attribute such that whoever shows the log one day obeys none of it: JSON escapes less than a terminal
// obeys. What is no text stays as it is.
func escaped(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		err, ok := a.Value.Any().(error)
		if !ok {
			return a
		}
		text = err.Error()
	default:
		return a
	}
	if plain := printable(text); plain != text {
		return slog.String(a.Key, plain)
	}
	return a
}

// isTerminal tells whether f, a reader or a writer, is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
