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
	mux.HandleFunc("GET "+pathHistory, func(w http.ResponseWriter, _ *http.Request) { answer(w, r.History()) })
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone away
}
