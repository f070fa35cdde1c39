// Package storetest helps tests of the services on a store.
package storetest

import (
	"context"
	"testing"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/store"
)

// Open gives an empty store that is stopped with the test.
func Open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(store.Options{Dir: t.TempDir(), ClusterID: 1, Address: "127.0.0.1:1", Version: "8.5.0"}, &calls.Log{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Now is a new timestamp of the store's clock.
func Now() uint64 {
	physical, logical := tikv.GetTS()
	return uint64(physical)<<18 + uint64(logical)
}

// Put commits one value and gives the commit timestamp; nil deletes the key.
func Put(t *testing.T, s *store.Store, key string, value []byte) uint64 {
	t.Helper()
	ctx := context.Background()
	region := region(t, s, key)
	mutation := &kvrpcpb.Mutation{Op: kvrpcpb.Op_Put, Key: []byte(key), Value: value}
	if value == nil {
		mutation.Op = kvrpcpb.Op_Del
	}
	start := Now()
	prewritten, err := s.KvPrewrite(ctx, &kvrpcpb.PrewriteRequest{
		Context: region.Context(), Mutations: []*kvrpcpb.Mutation{mutation},
		PrimaryLock: []byte(key), StartVersion: start, LockTtl: 1000, TxnSize: 1,
	})
	if err != nil || prewritten.RegionError != nil || len(prewritten.Errors) > 0 {
		t.Fatalf("prewrite %s: %v %v", key, err, prewritten)
	}
	commit := Now()
	committed, err := s.KvCommit(ctx, &kvrpcpb.CommitRequest{
		Context: region.Context(), StartVersion: start, CommitVersion: commit, Keys: [][]byte{[]byte(key)},
	})
	if err != nil || committed.RegionError != nil || committed.Error != nil {
		t.Fatalf("commit %s: %v %v", key, err, committed)
	}
	return commit
}

// Split cuts the region of the plain key at the key.
func Split(t *testing.T, s *store.Store, key string) {
	t.Helper()
	answer, err := s.SplitRegion(context.Background(), &kvrpcpb.SplitRegionRequest{
		Context: region(t, s, key).Context(), SplitKeys: [][]byte{[]byte(key)},
	})
	if err != nil || answer.RegionError != nil {
		t.Fatalf("split at %s: %v %v", key, err, answer)
	}
}

func region(t *testing.T, s *store.Store, key string) store.Region {
	t.Helper()
	region, err := s.RegionOf(context.Background(), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return region
}
