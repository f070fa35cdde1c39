package calls

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestCountsAndStartsAgain(t *testing.T) {
	var log Log
	log.Add("a")
	log.Add("a")
	log.Add("b")
	if got := log.Counts(); got["a"] != 2 || got["b"] != 1 {
		t.Fatalf("counts %v", got)
	}
	answer := httptest.NewRecorder()
	log.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/calls", nil))
	if got := answer.Body.String(); got != "{\"a\":2,\"b\":1}\n" {
		t.Fatalf("body %q", got)
	}
	log.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, "/calls", nil))
	if got := log.Counts(); len(got) != 0 {
		t.Fatalf("counts after a reset %v", got)
	}
}
