package importer

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"sync"

	"github.com/pingcap/kvproto/pkg/encryptionpb"
	"github.com/pingcap/kvproto/pkg/import_sstpb"
	"github.com/pingcap/tidb/br/pkg/storage"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/faults"
	"sandbox/tools/minikv/internal/sst"
	"sandbox/tools/minikv/internal/store"
)

// Server serves ImportSST of one store: downloads wait in memory until they are ingested.
type Server struct {
	import_sstpb.UnimplementedImportSSTServer
	Store  *store.Store
	Faults *faults.Box
	Calls  *calls.Log

	mu        sync.Mutex
	downloads map[string]*download // by the uuid that br chose
}

// download is one column family's rewritten entries of one region.
type download struct {
	defaultCF bool
	commitTS  uint64 // replaces the entries' own when not 0
	entries   []entry
}

// entry is one version of a key: encoded without prefix, its timestamp, and what the column family holds.
type entry struct {
	encoded []byte
	ts      uint64
	value   []byte
}

// Download reads one file of the backup, rewrites its keys and keeps those that belong to the region.
func (s *Server) Download(ctx context.Context, req *import_sstpb.DownloadRequest) (*import_sstpb.DownloadResponse, error) {
	if method := req.CipherInfo.GetCipherType(); method != encryptionpb.EncryptionMethod_UNKNOWN && method != encryptionpb.EncryptionMethod_PLAINTEXT {
		return nil, status.Errorf(codes.Unimplemented, "minikv: encryption (--crypter.method, here %s) is not supported", method)
	}
	if req.IsRawKv {
		return nil, status.Error(codes.Unimplemented, "minikv: raw key-value restore is not supported")
	}
	if err := s.Faults.Wait(ctx); err != nil {
		return nil, err
	}
	got, size, err := s.load(ctx, req)
	if err != nil {
		log.Printf("download %s: %v", req.Name, err)
		return &import_sstpb.DownloadResponse{Error: &import_sstpb.Error{Message: err.Error()}}, nil
	}
	if len(got.entries) == 0 {
		return &import_sstpb.DownloadResponse{IsEmpty: true}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.downloads == nil {
		s.downloads = map[string]*download{}
	}
	s.downloads[string(req.Sst.Uuid)] = got
	return &import_sstpb.DownloadResponse{Range: bounds(got.entries), Length: size}, nil
}

// load fetches, checks and rewrites. The request has no digest of the file: what protects it are the table's own block
// checksums, and its size where br sends one.
func (s *Server) load(ctx context.Context, req *import_sstpb.DownloadRequest) (*download, uint64, error) {
	region, err := s.Store.RegionByID(ctx, req.Sst.RegionId)
	if err != nil {
		return nil, 0, err
	}
	in, err := storage.New(ctx, req.StorageBackend, &storage.ExternalStorageOptions{})
	if err != nil {
		return nil, 0, err
	}
	defer in.Close()
	data, err := in.ReadFile(ctx, req.Name)
	if err != nil {
		return nil, 0, err
	}
	if req.Sst.Length != 0 && req.Sst.Length != uint64(len(data)) {
		return nil, 0, fmt.Errorf("importer: %s has %d bytes, the backup says %d", req.Name, len(data), req.Sst.Length)
	}
	stored, err := sst.Read(data)
	if err != nil {
		return nil, 0, err
	}
	got := &download{defaultCF: req.Sst.CfName == "default", commitTS: req.RewriteRule.NewTimestamp}
	for _, item := range stored {
		encoded, ts, err := sst.SplitDataKey(item.Key)
		if err != nil {
			return nil, 0, err
		}
		if encoded, err = rewrite(encoded, req.RewriteRule, req.RequestType); err != nil {
			return nil, 0, err
		}
		if holds(region, encoded) { // a file may span regions: each takes its own part
			got.entries = append(got.entries, entry{encoded: encoded, ts: ts, value: item.Value})
		}
	}
	return got, uint64(len(data)), nil
}

func holds(region store.Region, encoded []byte) bool {
	return bytes.Compare(encoded, region.Meta.StartKey) >= 0 &&
		(len(region.Meta.EndKey) == 0 || bytes.Compare(encoded, region.Meta.EndKey) < 0)
}

// bounds are the first and the last key, both with the timestamp that br cuts off again.
func bounds(entries []entry) import_sstpb.Range {
	stamped := func(e entry) []byte { return binary.BigEndian.AppendUint64(bytes.Clone(e.encoded), ^e.ts) }
	return import_sstpb.Range{Start: stamped(entries[0]), End: stamped(entries[len(entries)-1])}
}

// find is the download with that uuid, kept until it is ingested.
func (s *Server) find(uuid []byte) (*download, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, ok := s.downloads[string(uuid)]
	return got, ok
}

func (s *Server) drop(ssts []*import_sstpb.SSTMeta) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, meta := range ssts {
		delete(s.downloads, string(meta.Uuid))
	}
}

// SwitchMode is accepted and has no effect: there is nothing to tune.
func (s *Server) SwitchMode(context.Context, *import_sstpb.SwitchModeRequest) (*import_sstpb.SwitchModeResponse, error) {
	return &import_sstpb.SwitchModeResponse{}, nil
}

// SetDownloadSpeedLimit is accepted and not obeyed.
func (s *Server) SetDownloadSpeedLimit(
	context.Context, *import_sstpb.SetDownloadSpeedLimitRequest,
) (*import_sstpb.SetDownloadSpeedLimitResponse, error) {
	return &import_sstpb.SetDownloadSpeedLimitResponse{}, nil
}
