package faults

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func put(t *testing.T, box *Box, body string) int {
	t.Helper()
	answer := httptest.NewRecorder()
	box.ServeHTTP(answer, httptest.NewRequest(http.MethodPut, "/faults", strings.NewReader(body)))
	return answer.Code
}

func TestCountersRunDown(t *testing.T) {
	var box Box
	if code := put(t, &box, `{"region_errors": 1, "locks": 1, "lock_ttl_ms": 7, "lose_pairs": 1}`); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	if !box.TakeRegionError() || box.TakeRegionError() {
		t.Fatal("want one region error and no second one")
	}
	if !box.TakeLoss() || box.TakeLoss() {
		t.Fatal("want one loss and no second one")
	}
	ttl, ok := box.TakeLock()
	if !ok || ttl != 7 {
		t.Fatalf("lock %d %t", ttl, ok)
	}
	if _, ok := box.TakeLock(); ok {
		t.Fatal("a second lock")
	}
}

func TestBadPlansAreRefused(t *testing.T) {
	for _, body := range []string{`{"slow": 1}`, `{"locks": -1}`, `nonsense`} {
		var box Box
		if code := put(t, &box, body); code != http.StatusBadRequest {
			t.Errorf("%s: status %d", body, code)
		}
		if box.Plan() != (Plan{}) {
			t.Errorf("%s: took effect", body)
		}
	}
}

func TestSlowStoreStopsWithItsCaller(t *testing.T) {
	var box Box
	if err := box.Set(Plan{SlowMS: 60_000}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := box.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
}
