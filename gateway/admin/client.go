package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"lsmtpd/gateway"
	"lsmtpd/gateway/spool"
	"lsmtpd/routes/reload"
)

// Why a daemon cannot answer.
var (
	ErrNobody   = errors.New("no daemon is there")     // nobody listens on the socket
	ErrStopping = errors.New("the daemon is stopping") // and takes no more orders
)

// Client asks the daemon that listens on Socket.
type Client struct{ Socket string }

// Status returns the daemon's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, pathStatus)
}

// Reload has the daemon read its configuration again, and returns the report, which may be a rejection.
func (c *Client) Reload(ctx context.Context) (reload.Report, error) {
	return ask[reload.Report](ctx, c, http.MethodPost, pathReload)
}

// Probe has the daemon try a broker that is away at once, and ask it for the exchanges. It returns what the broker says.
func (c *Client) Probe(ctx context.Context) ([]string, error) {
	return ask[[]string](ctx, c, http.MethodPost, pathProbe)
}

// History returns the last reports, the newest last.
func (c *Client) History(ctx context.Context) ([]reload.Report, error) {
	return ask[[]reload.Report](ctx, c, http.MethodGet, pathHistory)
}

// Tail calls begun, and from then on each with every delivery that the broker confirms, until the daemon stops, with io.EOF, or
// ctx ends, or one of the two returns an error. The numbers in Copy.Headers are json.Number.
func (c *Client) Tail(ctx context.Context, begun func() error, each func(gateway.Copy) error) error {
	body, err := c.open(ctx, request{method: http.MethodGet, path: pathTail})
	if err != nil {
		return err
	}
	defer body.Close()
	if err := begun(); err != nil {
		return err
	}
	lines := json.NewDecoder(body)
	lines.UseNumber()
	for {
		var one gateway.Copy
		if err := lines.Decode(&one); err != nil {
			return err
		}
		if err := each(one); err != nil {
			return err
		}
	}
}

func ask[T any](ctx context.Context, c *Client, method, path string) (answer T, err error) {
	body, err := c.open(ctx, request{method: method, path: path})
	if err != nil {
		return answer, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return answer, nil
}

// request is what a Client asks. No body is an empty one.
type request struct {
	method, path string
	query        url.Values
	body         io.Reader
}

// open sends a request and returns the body of the answer.
func (c *Client) open(ctx context.Context, r request) (io.ReadCloser, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", c.Socket)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNobody, err)
			}
			return conn, nil
		},
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://lsmtpd"+r.path+"?"+r.query.Encode(), r.body)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: transport}).Do(req)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("talk to the daemon: this user may not use its socket %s: be the daemon's user, or root", c.Socket)
	case errors.Is(err, ErrNobody):
		return nil, fmt.Errorf("%w: nothing listens on %s", ErrNobody, c.Socket)
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		if answer.StatusCode == http.StatusServiceUnavailable {
			return nil, ErrStopping
		}
		octets, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		text := strings.TrimSpace(string(octets))
		if answer.StatusCode == http.StatusNotFound && strings.HasPrefix(r.path, pathSpoolMail) {
			return nil, &goneError{text}
		}
		if answer.StatusCode == http.StatusUnprocessableEntity || answer.StatusCode == http.StatusTooManyRequests {
			return nil, errors.New(text)
		}
		return nil, fmt.Errorf("the daemon answered %s: %s", answer.Status, text)
	}
	return answer.Body, nil
}

// goneError is the daemon's word that something is not there.
type goneError struct{ text string }

func (e *goneError) Error() string { return e.text }
func (e *goneError) Unwrap() error { return spool.ErrNotFound }
