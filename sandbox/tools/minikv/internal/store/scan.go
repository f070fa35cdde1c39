package store

import (
	"bytes"
	"context"
	"errors"
	"hash/crc64"
	"math"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
)

// Pair is a plain key and its value at one moment.
type Pair struct {
	Key, Value []byte
}

// Span is the half-open range [Start, End) of plain keys; an empty End is the end of all keys.
type Span struct {
	Start, End []byte
}

// within is the part of s that lies in region.
func (s Span) within(region Region) Span {
	if bytes.Compare(region.Start, s.Start) > 0 {
		s.Start = region.Start
	}
	if len(region.End) > 0 && (len(s.End) == 0 || bytes.Compare(region.End, s.End) < 0) {
		s.End = region.End
	}
	return s
}

// errRegionsMove means that regions kept changing under a scan.
var errRegionsMove = errors.New("store: the regions of the range keep changing")

const regionAttempts = 20

// EachRegion calls visit with every region that overlaps span, in order of their keys, and with the part of span in it.
// A region that changed before visit was done is asked for again: visit says so by returning false.
func (s *Store) EachRegion(ctx context.Context, span Span, visit func(Region, Span) (bool, error)) error {
	for attempts := 0; ; {
		region, err := s.RegionOf(ctx, span.Start)
		if err != nil {
			return err
		}
		part := span.within(region)
		done, err := visit(region, part)
		if err != nil {
			return err
		}
		if !done {
			if attempts++; attempts == regionAttempts {
				return errRegionsMove
			}
			continue
		}
		if len(part.End) == 0 || (len(span.End) > 0 && bytes.Compare(part.End, span.End) >= 0) {
			return nil
		}
		span.Start, attempts = part.End, 0
	}
}

// ScanRegion reads the part of one region at version. A region error or a lock in the way comes back as such.
func (s *Store) ScanRegion(ctx context.Context, region Region, part Span, version uint64) ([]Pair, *kvrpcpb.ScanResponse, error) {
	answer, err := s.KvScan(ctx, &kvrpcpb.ScanRequest{
		Context: region.Context(), StartKey: part.Start, EndKey: part.End, Limit: math.MaxUint32 >> 1, Version: version,
	})
	if err != nil || answer.RegionError != nil || answer.Error != nil {
		return nil, answer, err
	}
	pairs := make([]Pair, 0, len(answer.Pairs))
	for _, pair := range answer.Pairs {
		if pair.Error != nil {
			answer.Error = pair.Error
			return nil, answer, nil
		}
		pairs = append(pairs, Pair{Key: pair.Key, Value: pair.Value})
	}
	return pairs, answer, nil
}

// Scan reads span at version, whatever its regions. A lock in the way comes back as the key error.
func (s *Store) Scan(ctx context.Context, span Span, version uint64) (pairs []Pair, locked *kvrpcpb.KeyError, err error) {
	err = s.EachRegion(ctx, span, func(region Region, part Span) (bool, error) {
		found, answer, err := s.ScanRegion(ctx, region, part, version)
		if err != nil {
			return false, err
		}
		if answer.RegionError != nil {
			return false, nil
		}
		if answer.Error != nil {
			locked = answer.Error
			return false, errLocked
		}
		pairs = append(pairs, found...)
		return true, nil
	})
	if errors.Is(err, errLocked) {
		return nil, locked, nil
	}
	return pairs, nil, err
}

var errLocked = errors.New("store: a lock is in the way")

var ecma = crc64.MakeTable(crc64.ECMA)

// Sum is br's checksum of a set of pairs: order does not matter.
type Sum struct {
	Crc64Xor, TotalKvs, TotalBytes uint64
}

// Add counts one pair.
func (s *Sum) Add(key, value []byte) {
	s.Crc64Xor ^= crc64.Update(crc64.Checksum(key, ecma), ecma, value)
	s.TotalKvs++
	s.TotalBytes += uint64(len(key) + len(value))
}
