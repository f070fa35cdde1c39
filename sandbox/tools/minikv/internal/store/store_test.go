package store_test

import (
	"context"
	"fmt"
	"hash/crc64"
	"testing"

	"github.com/pingcap/kvproto/pkg/coprocessor"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/pkg/kv"
	"github.com/pingcap/tidb/pkg/util/codec"
	"github.com/pingcap/tipb/go-tipb"

	"sandbox/tools/minikv/internal/store"
	"sandbox/tools/minikv/internal/store/storetest"
)

var ctx = context.Background()

func scan(t *testing.T, s *store.Store, start, end string, version uint64) string {
	t.Helper()
	pairs, locked, err := s.Scan(ctx, store.Span{Start: []byte(start), End: []byte(end)}, version)
	if err != nil || locked != nil {
		t.Fatal(err, locked)
	}
	var out string
	for _, pair := range pairs {
		out += fmt.Sprintf("%s=%s ", pair.Key, pair.Value)
	}
	return out
}

func TestScanCrossesRegionsAndReadsTheSnapshot(t *testing.T) {
	s := storetest.Open(t)
	storetest.Put(t, s, "ta", []byte("1"))
	storetest.Put(t, s, "tm", []byte("2"))
	then := storetest.Put(t, s, "tz", []byte("3"))
	storetest.Split(t, s, "tb")
	storetest.Split(t, s, "ty")
	storetest.Put(t, s, "tm", []byte("later"))
	storetest.Put(t, s, "ta", nil)
	for _, want := range []struct{ start, end, pairs string }{
		{"t", "u", "ta=1 tm=2 tz=3 "}, {"tb", "tz", "tm=2 "}, {"tn", "to", ""}, {"tm", "", "tm=2 tz=3 "},
	} {
		if got := scan(t, s, want.start, want.end, then); got != want.pairs {
			t.Errorf("[%s, %s): %q, want %q", want.start, want.end, got, want.pairs)
		}
	}
	if got := scan(t, s, "t", "u", storetest.Now()); got != "tm=later tz=3 " {
		t.Errorf("now: %q", got)
	}
}

func TestScanReportsALock(t *testing.T) {
	s := storetest.Open(t)
	storetest.Put(t, s, "ta", []byte("1"))
	region, err := s.RegionOf(ctx, []byte("ta"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.KvPrewrite(ctx, &kvrpcpb.PrewriteRequest{
		Context: region.Context(), Mutations: []*kvrpcpb.Mutation{{Op: kvrpcpb.Op_Put, Key: []byte("ta"), Value: []byte("2")}},
		PrimaryLock: []byte("ta"), StartVersion: storetest.Now(), LockTtl: 1000, TxnSize: 1,
	}); err != nil {
		t.Fatal(err)
	}
	_, locked, err := s.Scan(ctx, store.Span{Start: []byte("t")}, storetest.Now())
	if err != nil || locked.GetLocked() == nil || string(locked.Locked.Key) != "ta" {
		t.Fatalf("%v %v", locked, err)
	}
}

func TestSplitAtEncodedKeys(t *testing.T) {
	s := storetest.Open(t)
	before, err := s.RegionOf(ctx, []byte("tm"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.SplitRegion(ctx, &kvrpcpb.SplitRegionRequest{
		Context: before.Context(), IsRawKv: true, SplitKeys: [][]byte{codec.EncodeBytes(nil, []byte("tm"))},
	})
	if err != nil || answer.RegionError != nil {
		t.Fatalf("%v %v", answer, err)
	}
	right, err := s.RegionOf(ctx, []byte("tm"))
	if err != nil || string(right.Start) != "tm" {
		t.Errorf("the right part begins at %q, %v", right.Start, err)
	}
	after, err := s.RegionByID(ctx, before.Meta.Id)
	if err != nil || string(after.End) != "tm" {
		t.Fatalf("the left part ends at %q, %v", after.End, err)
	}
	if store.SameEpoch(after.Meta.RegionEpoch, before.Meta.RegionEpoch) {
		t.Error("the epoch did not change")
	}
	answer, err = s.SplitRegion(ctx, &kvrpcpb.SplitRegionRequest{Context: after.Context(), IsRawKv: true, SplitKeys: [][]byte{[]byte("x")}})
	if err != nil || answer.RegionError == nil {
		t.Errorf("a key that is not encoded was taken: %v %v", answer, err)
	}
}

func checksum(t *testing.T, s *store.Store, prefix string, rule *tipb.ChecksumRewriteRule) tipb.ChecksumResponse {
	t.Helper()
	request, err := (&tipb.ChecksumRequest{ScanOn: tipb.ChecksumScanOn_Table, Rule: rule}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Coprocessor(ctx, &coprocessor.Request{
		Tp: kv.ReqTypeChecksum, Data: request, StartTs: storetest.Now(),
		Ranges: []*coprocessor.KeyRange{{Start: []byte(prefix), End: []byte(prefix + "\xff")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var sum tipb.ChecksumResponse
	if err := sum.Unmarshal(answer.Data); err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestChecksumFollowsContentAndUndoesARewrite(t *testing.T) {
	s := storetest.Open(t)
	for _, key := range []string{"a", "b"} {
		storetest.Put(t, s, "told_"+key, []byte("value "+key))
		storetest.Put(t, s, "tnew_"+key, []byte("value "+key))
	}
	storetest.Split(t, s, "told_b")
	table := crc64.MakeTable(crc64.ECMA)
	want := crc64.Checksum([]byte("told_avalue a"), table) ^ crc64.Checksum([]byte("told_bvalue b"), table)
	old := checksum(t, s, "told_", nil)
	if old.Checksum != want || old.TotalKvs != 2 || old.TotalBytes != 26 {
		t.Fatalf("%+v, want %d", old, want)
	}
	rewritten := checksum(t, s, "tnew_", &tipb.ChecksumRewriteRule{OldPrefix: []byte("told_"), NewPrefix: []byte("tnew_")})
	if rewritten.Checksum != want {
		t.Errorf("under the rule %d, want %d", rewritten.Checksum, want)
	}
	storetest.Put(t, s, "tnew_a", []byte("other"))
	if changed := checksum(t, s, "tnew_", nil); changed.Checksum == want {
		t.Error("the checksum did not follow the content")
	}
}
