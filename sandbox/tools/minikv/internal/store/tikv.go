package store

import (
	"bytes"
	"context"

	"github.com/pingcap/kvproto/pkg/coprocessor"
	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/pkg/kv"
	"github.com/pingcap/tidb/pkg/util/codec"
	"github.com/pingcap/tipb/go-tipb"
)

// Coprocessor adds the checksum request, which unistore answers with ones.
func (s *Store) Coprocessor(ctx context.Context, req *coprocessor.Request) (*coprocessor.Response, error) {
	if req.Tp != kv.ReqTypeChecksum {
		return s.Server.Coprocessor(ctx, req)
	}
	s.calls.Add("tikv checksum")
	var request tipb.ChecksumRequest
	if err := request.Unmarshal(req.Data); err != nil {
		return nil, err
	}
	var sum Sum
	for _, r := range req.Ranges {
		pairs, locked, err := s.Scan(ctx, Span{Start: r.Start, End: r.End}, req.StartTs)
		if err != nil {
			return nil, err
		}
		if locked != nil {
			return &coprocessor.Response{Locked: locked.Locked}, nil
		}
		for _, pair := range pairs {
			sum.Add(oldKey(pair.Key, request.Rule), pair.Value)
		}
	}
	data, err := (&tipb.ChecksumResponse{Checksum: sum.Crc64Xor, TotalKvs: sum.TotalKvs, TotalBytes: sum.TotalBytes}).Marshal()
	return &coprocessor.Response{Data: data}, err
}

// oldKey undoes a restore's rewrite, so that the sum can be compared with the backup's.
func oldKey(key []byte, rule *tipb.ChecksumRewriteRule) []byte {
	if rule == nil || !bytes.HasPrefix(key, rule.NewPrefix) {
		return key
	}
	return append(bytes.Clone(rule.OldPrefix), key[len(rule.NewPrefix):]...)
}

// SplitRegion adds split keys that are encoded already, which br sends.
func (s *Store) SplitRegion(ctx context.Context, req *kvrpcpb.SplitRegionRequest) (*kvrpcpb.SplitRegionResponse, error) {
	if !req.IsRawKv {
		return s.Server.SplitRegion(ctx, req)
	}
	s.calls.Add("tikv split at encoded keys")
	encoded := req.SplitKeys
	if len(encoded) == 0 {
		encoded = [][]byte{req.SplitKey} //nolint:staticcheck // older clients still send the single key
	}
	plain := make([][]byte, 0, len(encoded))
	for _, key := range encoded {
		_, decoded, err := codec.DecodeBytes(key, nil)
		if err != nil {
			return &kvrpcpb.SplitRegionResponse{RegionError: &errorpb.Error{Message: "not an encoded key: " + err.Error()}}, nil
		}
		plain = append(plain, decoded)
	}
	return s.Regions.SplitRegion(&kvrpcpb.SplitRegionRequest{Context: req.Context, SplitKeys: plain}), nil
}

// UnsafeDestroyRange accepts what follows a DROP and leaves the data: nothing reads a dropped table's keys again.
func (s *Store) UnsafeDestroyRange(context.Context, *kvrpcpb.UnsafeDestroyRangeRequest) (*kvrpcpb.UnsafeDestroyRangeResponse, error) {
	return &kvrpcpb.UnsafeDestroyRangeResponse{}, nil
}
