package pd

import (
	"context"
	"math"
	"time"

	"github.com/pingcap/kvproto/pkg/pdpb"
)

// GetGCSafePoint answers from unistore's books.
func (s *Server) GetGCSafePoint(ctx context.Context, _ *pdpb.GetGCSafePointRequest) (*pdpb.GetGCSafePointResponse, error) {
	s.calls.Add("pd GetGCSafePoint")
	ts, err := s.store.PD.GetGCSafePoint(ctx)
	return &pdpb.GetGCSafePointResponse{Header: s.header(), SafePoint: ts}, err
}

// UpdateGCSafePoint moves the safe point forward.
func (s *Server) UpdateGCSafePoint(ctx context.Context, req *pdpb.UpdateGCSafePointRequest) (*pdpb.UpdateGCSafePointResponse, error) {
	s.calls.Add("pd UpdateGCSafePoint")
	ts, err := s.store.PD.UpdateGCSafePoint(ctx, req.SafePoint)
	return &pdpb.UpdateGCSafePointResponse{Header: s.header(), NewSafePoint: ts}, err
}

// UpdateServiceGCSafePoint keeps what each service wants spared, until its time to live is over, and names the oldest.
func (s *Server) UpdateServiceGCSafePoint(
	_ context.Context, req *pdpb.UpdateServiceGCSafePointRequest,
) (*pdpb.UpdateServiceGCSafePointResponse, error) {
	s.calls.Add("pd UpdateServiceGCSafePoint")
	return s.spare(req, time.Now()), nil
}

func (s *Server) spare(req *pdpb.UpdateServiceGCSafePointRequest, now time.Time) *pdpb.UpdateServiceGCSafePointResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := string(req.ServiceId)
	if req.TTL > 0 {
		s.serviceSafePoints[id] = safePoint{ts: req.SafePoint, until: now.Add(time.Duration(min(req.TTL, math.MaxInt32)) * time.Second)}
	} else {
		delete(s.serviceSafePoints, id)
	}
	answer := &pdpb.UpdateServiceGCSafePointResponse{
		Header: s.header(), ServiceId: req.ServiceId, TTL: req.TTL, MinSafePoint: req.SafePoint,
	}
	for service, spared := range s.serviceSafePoints {
		switch {
		case now.After(spared.until):
			delete(s.serviceSafePoints, service)
		case spared.ts < answer.MinSafePoint:
			answer.MinSafePoint, answer.ServiceId = spared.ts, []byte(service)
		}
	}
	return answer
}

// SetExternalTimestamp keeps the timestamp of stale reads.
func (s *Server) SetExternalTimestamp(
	_ context.Context, req *pdpb.SetExternalTimestampRequest,
) (*pdpb.SetExternalTimestampResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.externalTS = req.Timestamp
	return &pdpb.SetExternalTimestampResponse{Header: s.header()}, nil
}

// GetExternalTimestamp is the timestamp kept by SetExternalTimestamp.
func (s *Server) GetExternalTimestamp(context.Context, *pdpb.GetExternalTimestampRequest) (*pdpb.GetExternalTimestampResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &pdpb.GetExternalTimestampResponse{Header: s.header(), Timestamp: s.externalTS}, nil
}
