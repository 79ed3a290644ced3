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

	"lsmtpd/gateway"
	"lsmtpd/gateway/spool"

	"github.com/google/uuid"
)

// maxIDs bounds what one request may name: the ids of more than a million files.
const maxIDs = 64 << 20

// The query of pathSpoolReplay.
const (
	queryExchange = "exchange"
	queryKey      = "key"
)

// handleSpool answers what an operator asks of g's spooled mail.
func handleSpool(mux *http.ServeMux, g *gateway.Gateway) {
	spooled := g.Spooled()
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
		m, err := spooled.Mail(req.Context(), id)
		switch {
		case errors.Is(err, spool.ErrNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusUnprocessableEntity) // what is wrong is the file
		default:
			answer(w, m)
		}
	})
	mux.HandleFunc("POST "+pathSpoolReplay, func(w http.ResponseWriter, req *http.Request) {
		var to *gateway.Destination
		if q := req.URL.Query(); q.Has(queryExchange) {
			to = &gateway.Destination{Exchange: q.Get(queryExchange), RoutingKey: q.Get(queryKey)}
		}
		each(w, req, func(ids []uuid.UUID, tell func(gateway.Outcome) error) error {
			return spooled.Replay(req.Context(), ids, to, tell)
		})
	})
	mux.HandleFunc("POST "+pathSpoolRemove, func(w http.ResponseWriter, req *http.Request) {
		each(w, req, func(ids []uuid.UUID, tell func(gateway.Outcome) error) error {
			return spooled.Remove(req.Context(), ids, tell)
		})
	})
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
func each(w http.ResponseWriter, req *http.Request, do func(ids []uuid.UUID, tell func(gateway.Outcome) error) error) {
	ids, err := readIDs(http.MaxBytesReader(w, req.Body, maxIDs))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines, flush := json.NewEncoder(w), http.NewResponseController(w).Flush
	_ = flush() // the client learns that it is understood
	err = do(ids, func(o gateway.Outcome) error {
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

// Replay has the daemon publish the mail that ids name, see gateway.Spooled. When ctx ends the daemon begins no more.
func (c *Client) Replay(ctx context.Context, ids []uuid.UUID, to *gateway.Destination, each func(gateway.Outcome) error) error {
	r := request{method: http.MethodPost, path: pathSpoolReplay, body: writeIDs(ids)}
	if to != nil {
		r.query = url.Values{queryExchange: {to.Exchange}, queryKey: {to.RoutingKey}}
	}
	return outcomes(ctx, c, r, each)
}

// Remove has the daemon take mail off the disk for good, see gateway.Spooled.
func (c *Client) Remove(ctx context.Context, ids []uuid.UUID, each func(gateway.Outcome) error) error {
	return outcomes(ctx, c, request{method: http.MethodPost, path: pathSpoolRemove, body: writeIDs(ids)}, each)
}

func outcomes(ctx context.Context, c *Client, r request, each func(gateway.Outcome) error) error {
	for o, err := range readLines[gateway.Outcome](ctx, c, r) {
		if err == nil {
			err = each(o)
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
		var none T
		body, err := c.open(ctx, r)
		if err != nil {
			yield(none, err)
			return
		}
		defer body.Close()
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
