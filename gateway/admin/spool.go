package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"sync"
	"time"

	"lsmtpd/gateway"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

// maxIDs bounds what one request may name: the ids of more than a million files.
const maxIDs = 64 << 20

// The query of pathSpoolReplay, and of pathSpoolRemove the last.
const (
	queryExchange = "exchange"
	queryKey      = "key"
	queryCall     = "call" // a name that the client gives it, for pathSpoolStop; it may be left out
)

// handleSpool answers what an operator asks of g's spooled mail.
func handleSpool(mux *http.ServeMux, g *gateway.Gateway) {
	spooled, under := g.Spooled(), &calls{}
	mux.HandleFunc("GET "+pathSpool, func(w http.ResponseWriter, req *http.Request) {
		f, err := gateway.ParseFilter(req.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		writeLines(w, spooled.Entries(req.Context(), f))
	})
	mux.HandleFunc("GET "+pathSpoolBad, func(w http.ResponseWriter, req *http.Request) { writeLines(w, spooled.Bad(req.Context())) })
	mux.HandleFunc("GET "+pathSpoolMail+"{id}", func(w http.ResponseWriter, req *http.Request) {
		id, err := uuid.Parse(req.PathValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		began := false
		err = spooled.Show(req.Context(), id, func(m *gateway.SpooledMail) error {
			began = true
			return show(w, m)
		})
		switch {
		case err == nil, began: // who has gone away, or does not read, is told no more
		case errors.Is(err, spool.ErrNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		case errors.Is(err, gateway.ErrCrowded):
			http.Error(w, err.Error(), http.StatusTooManyRequests)
		default:
			http.Error(w, err.Error(), http.StatusUnprocessableEntity) // what is wrong is the file
		}
	})
	mux.HandleFunc("POST "+pathSpoolReplay, func(w http.ResponseWriter, req *http.Request) {
		var to *gateway.Destination
		if q := req.URL.Query(); q.Has(queryExchange) {
			to = &gateway.Destination{Exchange: q.Get(queryExchange), RoutingKey: q.Get(queryKey)}
		}
		under.each(w, req, func(ctx context.Context, ids []uuid.UUID, tell func(gateway.Outcome) error) error {
			return spooled.Replay(ctx, ids, to, tell)
		})
	})
	mux.HandleFunc("POST "+pathSpoolRemove, func(w http.ResponseWriter, req *http.Request) {
		under.each(w, req, spooled.Remove)
	})
	mux.HandleFunc("POST "+pathSpoolStop+"{call}", func(w http.ResponseWriter, req *http.Request) {
		if !under.stop(req.PathValue("call")) {
			http.Error(w, "nothing of that name is under way", http.StatusNotFound)
		}
	})
}

// showPause is how long a client may take to read a piece of a mail: the memory that holds it is missing to others.
const showPause = 10 * time.Second

// show answers with m, and cuts off a client that does not read.
func show(w http.ResponseWriter, m *gateway.SpooledMail) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close") // the deadline is this answer's
	control := http.NewResponseController(w)
	return m.WriteJSON(w, func() error { return control.SetWriteDeadline(time.Now().Add(showPause)) })
}

// calls are the replays and removals under way that have a name. The zero value is none.
type calls struct {
	mu    sync.Mutex
	named map[string]context.CancelFunc // guarded by mu
}

// begin returns a context for the call of that name, which stop ends, and what is to be called at its end.
func (c *calls) begin(ctx context.Context, name string) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	if name == "" {
		return ctx, cancel
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.named == nil {
		c.named = map[string]context.CancelFunc{}
	}
	c.named[name] = cancel
	return ctx, func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.named, name)
	}
}

// stop tells whether there is such a call, which begins no more from now on.
func (c *calls) stop(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	cancel := c.named[name]
	if cancel != nil {
		cancel()
	}
	return cancel != nil
}

// writeLines answers with what seq yields.
func writeLines[T any](w http.ResponseWriter, seq iter.Seq2[T, error]) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	for v, err := range seq {
		if err != nil {
			_ = lines.Encode(line[T]{Error: err.Error()})
			return
		}
		if lines.Encode(line[T]{Value: &v}) != nil {
			return // the client has gone away, or has enough
		}
	}
}

// each has do work on the ids of the request, and answers with what it tells of each as it does.
func (c *calls) each(w http.ResponseWriter, req *http.Request, do func(ctx context.Context, ids []uuid.UUID, tell func(gateway.Outcome) error) error) {
	ctx, end := c.begin(req.Context(), req.URL.Query().Get(queryCall))
	defer end()
	ids, err := readIDs(http.MaxBytesReader(w, req.Body, maxIDs))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines, flush := json.NewEncoder(w), http.NewResponseController(w).Flush
	_ = flush() // the client learns that it is understood
	err = do(ctx, ids, func(o gateway.Outcome) error {
		if err := lines.Encode(line[gateway.Outcome]{Value: &o}); err != nil {
			return err
		}
		return flush()
	})
	if err != nil {
		_ = lines.Encode(line[gateway.Outcome]{Error: err.Error()}) // the client may have gone away
	}
}

// readIDs reads an id a line.
func readIDs(r io.Reader) ([]uuid.UUID, error) {
	var ids []uuid.UUID
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return ids, lines.Err()
		}
		id, err := uuid.ParseBytes(lines.Bytes())
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
}

// Entries returns the spooled mail that f means, oldest first. It ends with the first error.
func (c *Client) Entries(ctx context.Context, f *gateway.Filter) iter.Seq2[spool.Entry, error] {
	return readLines[spool.Entry](ctx, c, request{method: http.MethodGet, path: pathSpool, query: f.Values()})
}

// Bad returns the files that could not be read, and were put aside.
func (c *Client) Bad(ctx context.Context) iter.Seq2[spool.BadEntry, error] {
	return readLines[spool.BadEntry](ctx, c, request{method: http.MethodGet, path: pathSpoolBad})
}

// Mail returns one spooled mail. An error that is spool.ErrNotFound tells that there is none of that id.
func (c *Client) Mail(ctx context.Context, id uuid.UUID) (gateway.SpooledMail, error) {
	return ask[gateway.SpooledMail](ctx, c, http.MethodGet, pathSpoolMail+id.String())
}

// Replay has the daemon publish the mail that ids name, see gateway.Spooled. When ctx ends the daemon begins no more, and tells each
// what became of the rest.
func (c *Client) Replay(ctx context.Context, ids []uuid.UUID, to *gateway.Destination, each func(gateway.Outcome) error) error {
	r := request{method: http.MethodPost, path: pathSpoolReplay, body: writeIDs(ids), query: url.Values{}}
	if to != nil {
		r.query = url.Values{queryExchange: {to.Exchange}, queryKey: {to.RoutingKey}}
	}
	return outcomes(ctx, c, r, each)
}

// Remove has the daemon take mail off the disk for good, see gateway.Spooled. When ctx ends it begins no more, as Replay.
func (c *Client) Remove(ctx context.Context, ids []uuid.UUID, each func(gateway.Outcome) error) error {
	return outcomes(ctx, c, request{method: http.MethodPost, path: pathSpoolRemove, body: writeIDs(ids), query: url.Values{}}, each)
}

// outcomes has the daemon do what r says, and tells each what became of all of it. When ctx ends the daemon is asked to stop, and
// what it tells until then is told.
func outcomes(ctx context.Context, c *Client, r request, each func(gateway.Outcome) error) error {
	call := uuid.NewString()
	r.query.Set(queryCall, call)
	reading, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	opening := context.AfterFunc(ctx, leave)
	body, err := c.open(reading, r)
	if !opening() {
		if err == nil {
			body.Close()
		}
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	defer context.AfterFunc(ctx, func() {
		answer, err := c.open(reading, request{method: http.MethodPost, path: pathSpoolStop + call})
		if err != nil {
			leave() // it cannot be asked: it learns of the end of the connection
			return
		}
		answer.Close()
	})()
	for o, err := range linesOf[gateway.Outcome](reading, body) {
		if err == nil {
			err = each(o)
		}
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeIDs(ids []uuid.UUID) io.Reader {
	b := make([]byte, 0, 37*len(ids))
	for _, id := range ids {
		b = append(append(b, id.String()...), '\n')
	}
	return bytes.NewReader(b)
}

// readLines asks for an answer of many lines, once for each time that it is ranged over.
func readLines[T any](ctx context.Context, c *Client, r request) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		body, err := c.open(ctx, r)
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		defer body.Close()
		linesOf[T](ctx, body)(yield)
	}
}

// linesOf reads the lines of an answer.
func linesOf[T any](ctx context.Context, body io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for lines := json.NewDecoder(body); ; {
			var l line[T]
			switch err := lines.Decode(&l); {
			case errors.Is(err, io.EOF):
				return
			case err != nil && ctx.Err() != nil:
				yield(none, ctx.Err())
				return
			case errors.Is(err, io.ErrUnexpectedEOF):
				yield(none, errors.New("the daemon has stopped"))
				return
			case err != nil:
				yield(none, fmt.Errorf("read the daemon's answer: %w", err))
				return
			case l.Value == nil:
				yield(none, errors.New(l.Error))
				return
			}
			if !yield(*l.Value, nil) {
				return
			}
		}
	}
}
