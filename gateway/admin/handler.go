package admin

import (
	"encoding/json"
	"net/http"

	"lsmtpd/gateway"
	"lsmtpd/routes/reload"
)

// Handler answers the API for g and r.
func Handler(g *gateway.Gateway, r *reload.Reloader) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, Status{Status: g.Status(), Config: r.Status()})
	})
	mux.HandleFunc("POST "+pathReload, func(w http.ResponseWriter, req *http.Request) {
		report, err := r.Reload(req.Context(), reload.Command)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answer(w, report)
	})
	mux.HandleFunc("POST "+pathProbe, func(w http.ResponseWriter, _ *http.Request) { answer(w, g.Probe()) })
	mux.HandleFunc("GET "+pathHistory, func(w http.ResponseWriter, _ *http.Request) { answer(w, r.History()) })
	mux.HandleFunc("GET "+pathTail, func(w http.ResponseWriter, req *http.Request) { tail(w, req, g) })
	handleSpool(mux, g)
	return mux
}

// tail writes each copy as it comes, until the client goes away or the gateway stops.
func tail(w http.ResponseWriter, req *http.Request, g *gateway.Gateway) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	flush, lines := http.NewResponseController(w).Flush, json.NewEncoder(w)
	_ = g.Watch(req.Context(), flush, func(c gateway.Copy) error { // an error is the client's, who has gone away
		if err := lines.Encode(c); err != nil {
			return err
		}
		return flush()
	})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone away
}
