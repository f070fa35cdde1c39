// Package calls counts what clients asked of the fixture, so that a test can say which services a tool really used.
package calls

import (
	"encoding/json"
	"net/http"
	"sync"
)

// Log counts calls by name. The zero value is ready to use.
type Log struct {
	mu     sync.Mutex
	counts map[string]int
}

// Add counts one call of name.
func (l *Log) Add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts == nil {
		l.counts = map[string]int{}
	}
	l.counts[name]++
}

// Counts is a copy of the counters.
func (l *Log) Counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]int, len(l.counts))
	for name, n := range l.counts {
		counts[name] = n
	}
	return counts
}

// ServeHTTP answers GET with the counters as JSON and DELETE by starting again from nothing.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(l.Counts())
	case http.MethodDelete:
		l.mu.Lock()
		l.counts = nil
		l.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "GET or DELETE", http.StatusMethodNotAllowed)
	}
}
