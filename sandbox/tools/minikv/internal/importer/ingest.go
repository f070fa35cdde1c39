package importer

import (
	"context"
	"fmt"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/import_sstpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/pkg/util/codec"

	"sandbox/tools/minikv/internal/sst"
	"sandbox/tools/minikv/internal/store"
)

// Ingest writes one downloaded file. A value that lives in the default column family must come in the same request, so
// such files need MultiIngest, which br uses since 6.0.
func (s *Server) Ingest(ctx context.Context, req *import_sstpb.IngestRequest) (*import_sstpb.IngestResponse, error) {
	return s.MultiIngest(ctx, &import_sstpb.MultiIngestRequest{Context: req.Context, Ssts: []*import_sstpb.SSTMeta{req.Sst}})
}

// MultiIngest writes the downloaded files of one region. Without files it only says that the store knows the call.
func (s *Server) MultiIngest(ctx context.Context, req *import_sstpb.MultiIngestRequest) (*import_sstpb.IngestResponse, error) {
	if len(req.Ssts) == 0 {
		return &import_sstpb.IngestResponse{}, nil
	}
	region, err := s.Store.RegionByID(ctx, req.Context.GetRegionId())
	if err != nil {
		return failure(&errorpb.Error{
			Message: err.Error(), RegionNotFound: &errorpb.RegionNotFound{RegionId: req.Context.GetRegionId()},
		})
	}
	if !store.SameEpoch(region.Meta.RegionEpoch, req.Context.GetRegionEpoch()) {
		return failure(store.StaleEpoch(region.Meta))
	}
	if s.Faults.TakeRegionError() {
		s.Calls.Add("fault region error")
		return failure(store.StaleEpoch(region.Meta))
	}
	transactions, err := s.transactions(req.Ssts)
	if err != nil {
		return nil, err
	}
	for at, mutations := range transactions {
		regionError, err := s.commit(ctx, region, at, mutations)
		if err != nil {
			return nil, err
		}
		if regionError != nil {
			return failure(regionError)
		}
	}
	s.drop(req.Ssts)
	return &import_sstpb.IngestResponse{}, nil
}

func failure(problem *errorpb.Error) (*import_sstpb.IngestResponse, error) {
	return &import_sstpb.IngestResponse{Error: problem}, nil
}

// stamps are the two timestamps of a transaction.
type stamps struct{ start, commit uint64 }

// transactions joins the column families and groups the writes by the timestamps they shall have.
func (s *Server) transactions(ssts []*import_sstpb.SSTMeta) (map[stamps][]*kvrpcpb.Mutation, error) {
	type version struct {
		encoded string
		start   uint64
	}
	long := map[version][]byte{}
	var writes []*download
	for _, meta := range ssts {
		got, ok := s.find(meta.Uuid)
		switch {
		case !ok:
			return nil, fmt.Errorf("importer: file %x was not downloaded", meta.Uuid)
		case got.defaultCF:
			for _, e := range got.entries {
				long[version{string(e.encoded), e.ts}] = e.value
			}
		default:
			writes = append(writes, got)
		}
	}
	groups := map[stamps][]*kvrpcpb.Mutation{}
	for _, file := range writes {
		for _, e := range s.lose(file.entries) {
			record, err := sst.ParseRecord(e.value)
			if err != nil {
				return nil, err
			}
			_, plain, err := codec.DecodeBytes(e.encoded, nil)
			if err != nil {
				return nil, fmt.Errorf("importer: %x is no encoded key: %w", e.encoded, err)
			}
			mutation := &kvrpcpb.Mutation{Op: kvrpcpb.Op_Put, Key: plain, Value: record.Short}
			switch {
			case record.Delete:
				mutation.Op = kvrpcpb.Op_Del
			case !record.Inline:
				if mutation.Value, err = longValue(long, version{string(e.encoded), record.StartTS}, plain); err != nil {
					return nil, err
				}
			}
			at := stamps{start: record.StartTS, commit: e.ts}
			if file.commitTS != 0 {
				at = stamps{start: file.commitTS - 1, commit: file.commitTS}
			}
			groups[at] = append(groups[at], mutation)
		}
	}
	return groups, nil
}

// lose drops the first entry when a test ordered it.
func (s *Server) lose(entries []entry) []entry {
	if !s.Faults.TakeLoss() {
		return entries
	}
	s.Calls.Add("fault lost pair")
	return entries[1:]
}

func longValue[K comparable](long map[K][]byte, at K, plain []byte) ([]byte, error) {
	value, ok := long[at]
	if !ok {
		return nil, fmt.Errorf("importer: no value in the default column family for key %x", plain)
	}
	return value, nil
}

const batchKeys = 1024

// commit writes mutations at the given timestamps. What an earlier, interrupted try has written stays as it is.
func (s *Server) commit(ctx context.Context, region store.Region, at stamps, mutations []*kvrpcpb.Mutation) (*errorpb.Error, error) {
	for len(mutations) > 0 {
		batch := mutations[:min(batchKeys, len(mutations))]
		mutations = mutations[len(batch):]
		if problem, err := s.commitBatch(ctx, region, at, batch); problem != nil || err != nil {
			return problem, err
		}
	}
	return nil, nil
}

func (s *Server) commitBatch(ctx context.Context, region store.Region, at stamps, batch []*kvrpcpb.Mutation) (*errorpb.Error, error) {
	prewritten, err := s.prewrite(ctx, region, at, batch)
	if err != nil || prewritten.RegionError != nil {
		return prewritten.GetRegionError(), err
	}
	if len(prewritten.Errors) > 0 { // unistore stops at the first: find out which are there already
		if batch, err = s.missing(ctx, region, at, batch); err != nil || len(batch) == 0 {
			return nil, err
		}
		prewritten, err = s.prewrite(ctx, region, at, batch)
		if err != nil || prewritten.RegionError != nil {
			return prewritten.GetRegionError(), err
		}
		if len(prewritten.Errors) > 0 {
			return nil, fmt.Errorf("importer: prewrite: %v", prewritten.Errors[0])
		}
	}
	keys := make([][]byte, len(batch))
	for i, mutation := range batch {
		keys[i] = mutation.Key
	}
	committed, err := s.Store.KvCommit(ctx, &kvrpcpb.CommitRequest{
		Context: region.Context(), StartVersion: at.start, CommitVersion: at.commit, Keys: keys,
	})
	if err != nil || committed.RegionError != nil {
		return committed.GetRegionError(), err
	}
	if committed.Error != nil {
		return nil, fmt.Errorf("importer: commit: %v", committed.Error)
	}
	return nil, nil
}

func (s *Server) prewrite(
	ctx context.Context, region store.Region, at stamps, batch []*kvrpcpb.Mutation,
) (*kvrpcpb.PrewriteResponse, error) {
	return s.Store.KvPrewrite(ctx, &kvrpcpb.PrewriteRequest{
		Context: region.Context(), Mutations: batch, PrimaryLock: batch[0].Key,
		StartVersion: at.start, LockTtl: 60_000, TxnSize: uint64(len(batch)),
	})
}

// missing are the mutations that have not been committed at these timestamps before. Ingesting the same file twice is
// allowed, but a key that someone else wrote later is an error.
func (s *Server) missing(ctx context.Context, region store.Region, at stamps, batch []*kvrpcpb.Mutation) ([]*kvrpcpb.Mutation, error) {
	var left []*kvrpcpb.Mutation
	for _, mutation := range batch {
		answer, err := s.prewrite(ctx, region, at, []*kvrpcpb.Mutation{mutation})
		if err != nil {
			return nil, err
		}
		if len(answer.Errors) == 0 {
			left = append(left, mutation)
			continue
		}
		conflict := answer.Errors[0].Conflict
		if conflict == nil || conflict.ConflictTs != at.start || conflict.ConflictCommitTs != at.commit {
			return nil, fmt.Errorf("importer: key %x: %v", mutation.Key, answer.Errors[0])
		}
	}
	return left, nil
}
