// Package faults holds the troubles that a test orders: a slow store, region errors, locks
// met by a backup's scan, lost data.
package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Plan says what shall go wrong. Counters run down by one for each trouble made.
type Plan struct {
	// SlowMS delays every region of a backup and every download of a restore by so many milliseconds.
	SlowMS int `json:"slow_ms"`
	// RegionErrors answers so many regions of a backup, or ingests of a restore, with EpochNotMatch.
	RegionErrors int `json:"region_errors"`
	// Locks leaves a prewritten, never committed lock in the way of so many backup scans.
	Locks int `json:"locks"`
	// LosePairs drops the first pair of so many regions of a backup, or of so many ingested files, and says nothing.
	LosePairs int `json:"lose_pairs"`
	// LockTTLMS is how long such a lock counts as alive; br may resolve it only afterwards.
	LockTTLMS uint64 `json:"lock_ttl_ms"`
}

// Box keeps the current plan and is safe for concurrent use. The zero value has no faults.
type Box struct {
	mu   sync.Mutex
	plan Plan
}

// Set replaces the plan.
func (b *Box) Set(plan Plan) error {
	if min(plan.SlowMS, plan.RegionErrors, plan.Locks, plan.LosePairs) < 0 {
		return fmt.Errorf("faults: nothing may be negative: %+v", plan)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plan = plan
	return nil
}

// Plan is what is still to come.
func (b *Box) Plan() Plan {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.plan
}

// Wait sleeps as the slow store does, or until ctx ends.
func (b *Box) Wait(ctx context.Context) error {
	delay := time.Duration(b.Plan().SlowMS) * time.Millisecond
	if delay == 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay):
		return nil
	}
}

// TakeRegionError tells whether this region shall answer with an error, and uses one up.
func (b *Box) TakeRegionError() bool {
	return b.take(func(p *Plan) *int { return &p.RegionErrors })
}

// TakeLoss tells whether a pair shall get lost here, and uses one up.
func (b *Box) TakeLoss() bool {
	return b.take(func(p *Plan) *int { return &p.LosePairs })
}

func (b *Box) take(counter func(*Plan) *int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := counter(&b.plan)
	if *left == 0 {
		return false
	}
	*left--
	return true
}

// TakeLock tells whether this scan shall meet a lock, how long the lock lives, and uses one up.
func (b *Box) TakeLock() (ttl uint64, ok bool) {
	return b.Plan().LockTTLMS, b.take(func(p *Plan) *int { return &p.Locks })
}

// ReturnLock gives a lock back that could not be left where it was meant to be.
func (b *Box) ReturnLock() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plan.Locks++
}

// ServeHTTP answers GET with the plan and takes a whole new one by PUT.
func (b *Box) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
	case http.MethodPut:
		var plan Plan
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&plan)
		if err == nil {
			err = b.Set(plan)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	default:
		http.Error(w, "GET or PUT", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(b.Plan())
}
