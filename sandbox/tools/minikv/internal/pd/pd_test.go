package pd

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/tidb/pkg/util/codec"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/store/storetest"
)

func newServer(t *testing.T) *Server {
	t.Helper()
	return New(storetest.Open(t), &calls.Log{}, "127.0.0.1:2379", 1, "8.5.0")
}

func TestTimestampsOfABatchAreOneRun(t *testing.T) {
	last := lastOf(1)
	for range 50 {
		next := lastOf(100)
		if next.Physical < last.Physical || (next.Physical == last.Physical && next.Logical < last.Logical+100) {
			t.Fatalf("%v after %v", next, last)
		}
		if next.Logical < 99 {
			t.Fatalf("the batch that ends at %v began in another millisecond", next)
		}
		last = next
	}
}

func TestServiceSafePoints(t *testing.T) {
	s := newServer(t)
	now := time.Now()
	ask := func(service string, ttl int64, ts uint64, at time.Time) uint64 {
		return s.spare(&pdpb.UpdateServiceGCSafePointRequest{ServiceId: []byte(service), TTL: ttl, SafePoint: ts}, at).MinSafePoint
	}
	if got := ask("br", 300, 50, now); got != 50 {
		t.Errorf("alone: %d", got)
	}
	if got := ask("gc_worker", 1000, 90, now); got != 50 {
		t.Errorf("beside an older one: %d", got)
	}
	if got := ask("gc_worker", 1000, 90, now.Add(time.Hour)); got != 90 {
		t.Errorf("after its time to live: %d", got)
	}
	ask("br", 300, 50, now)
	ask("br", 0, 50, now)
	if got := ask("gc_worker", 1000, 90, now); got != 90 {
		t.Errorf("after it was taken back: %d", got)
	}
}

func TestRegionsAfterASplit(t *testing.T) {
	s := newServer(t)
	storetest.Split(t, s.store, "tm")
	ctx := context.Background()
	scan, err := s.ScanRegions(ctx, &pdpb.ScanRegionsRequest{})
	if err != nil || len(scan.Regions) != 2 {
		t.Fatalf("%v %v", scan, err)
	}
	key := codec.EncodeBytes(nil, []byte("tz"))
	one, err := s.GetRegion(ctx, &pdpb.GetRegionRequest{RegionKey: key})
	if err != nil || one.Region.Id != scan.Regions[1].Region.Id || one.Leader == nil {
		t.Errorf("%v %v", one, err)
	}
	previous, err := s.GetPrevRegion(ctx, &pdpb.GetRegionRequest{RegionKey: key})
	if err != nil || previous.Region.Id != scan.Regions[0].Region.Id {
		t.Errorf("%v %v", previous, err)
	}
}

func TestHTTP(t *testing.T) {
	s := newServer(t)
	for _, want := range []struct {
		method, path string
		code         int
		body         string
	}{
		{http.MethodGet, "version", 200, `{"version":"v8.5.0"}`},
		{http.MethodGet, "config/cluster-version", 200, `"8.5.0"`},
		{http.MethodGet, "stores", 200, `"state_name":"Up"`},
		{http.MethodPost, "config", 200, `"OK"`},
		{http.MethodGet, "nowhere", 404, "no pd-http GET nowhere"},
		{http.MethodDelete, "config", 404, "no pd-http DELETE config"},
	} {
		answer := httptest.NewRecorder()
		s.Handler().ServeHTTP(answer, httptest.NewRequest(want.method, apiPrefix+want.path, strings.NewReader("{}")))
		if answer.Code != want.code || !strings.Contains(answer.Body.String(), want.body) {
			t.Errorf("%s %s: %d %s", want.method, want.path, answer.Code, answer.Body)
		}
	}
	if s.calls.Counts()["unsupported pd-http GET nowhere"] != 1 {
		t.Error("the unsupported path was not counted")
	}
}
