// Package backup is TiKV's Backup service: it writes a snapshot of key ranges as SST files to br's storage.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go/aws/awserr"
	brpb "github.com/pingcap/kvproto/pkg/brpb"
	"github.com/pingcap/kvproto/pkg/encryptionpb"
	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/br/pkg/storage"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/faults"
	"sandbox/tools/minikv/internal/sst"
	"sandbox/tools/minikv/internal/store"
)

// Server serves the Backup service of one store.
type Server struct {
	brpb.UnimplementedBackupServer
	Store  *store.Store
	Faults *faults.Box
	Calls  *calls.Log

	locksLeft atomic.Uint64
}

// refusalRepeats makes br give up: it forgives one store ten unknown errors a round, and asks again for ever below that.
const refusalRepeats = 11

// Backup answers one message for each region that overlaps the asked ranges, as TiKV does.
func (s *Server) Backup(req *brpb.BackupRequest, stream brpb.Backup_BackupServer) error {
	if reason := refusal(req); reason != "" {
		log.Printf("backup refused: %s", reason)
		for range refusalRepeats {
			if err := stream.Send(failed(reason)); err != nil {
				return err
			}
		}
		return nil
	}
	ctx := stream.Context()
	out, err := storage.New(ctx, req.StorageBackend, &storage.ExternalStorageOptions{})
	if err != nil {
		return stream.Send(failed(storageMessage(err)))
	}
	defer out.Close()
	if err := s.ownFolder(req.StorageBackend.GetLocal()); err != nil {
		return stream.Send(failed(storageMessage(err)))
	}
	run := &run{Server: s, req: req, out: out, stream: stream}
	for _, span := range spans(req) {
		if err := s.Store.EachRegion(ctx, span, run.region); err != nil {
			log.Printf("backup of [%x, %x): %v", span.Start, span.End, err)
			return err
		}
	}
	return nil
}

// ownFolder makes the folder of this store's files. The storage package would do it too, but of two requests that find it missing at
// once, one may be told that it does not exist.
func (s *Server) ownFolder(local *brpb.Local) error {
	if local == nil {
		return nil
	}
	return os.MkdirAll(filepath.Join(local.Path, strconv.FormatUint(s.Store.ID, 10)), 0o755)
}

// refusal names the first thing asked for that this fixture cannot do, or is empty.
func refusal(req *brpb.BackupRequest) string {
	method := req.CipherInfo.GetCipherType()
	switch {
	case method != encryptionpb.EncryptionMethod_UNKNOWN && method != encryptionpb.EncryptionMethod_PLAINTEXT:
		return fmt.Sprintf("minikv: encryption (--crypter.method, here %s) is not supported", method)
	case req.IsRawKv:
		return "minikv: raw key-value backup is not supported"
	case req.Mode == brpb.BackupMode_FILE:
		return "minikv: file-copy backup is not supported"
	case req.DstApiVersion == kvrpcpb.APIVersion_V2:
		return "minikv: API v2 is not supported"
	case !sst.Supported(req.CompressionType):
		return fmt.Sprintf("minikv: compression %s is not supported; use zstd or snappy", req.CompressionType)
	}
	return ""
}

func spans(req *brpb.BackupRequest) []store.Span {
	if len(req.SubRanges) == 0 {
		return []store.Span{{Start: req.StartKey, End: req.EndKey}}
	}
	spans := make([]store.Span, 0, len(req.SubRanges))
	for _, r := range req.SubRanges {
		spans = append(spans, store.Span{Start: r.StartKey, End: r.EndKey})
	}
	return spans
}

// run is one request while it is served.
type run struct {
	*Server
	req    *brpb.BackupRequest
	out    storage.ExternalStorage
	stream brpb.Backup_BackupServer
}

// region backs up part, which lies in region, and reports it. False means that the region changed meanwhile.
func (r *run) region(region store.Region, part store.Span) (bool, error) {
	ctx := r.stream.Context()
	if err := r.Faults.Wait(ctx); err != nil {
		return false, err
	}
	if r.Faults.TakeRegionError() {
		r.Calls.Add("fault region error")
		return true, r.report(part, nil, &brpb.Error{Detail: &brpb.Error_RegionError{RegionError: store.StaleEpoch(region.Meta)}})
	}
	if err := r.leaveLock(ctx, region, part); err != nil {
		return false, err
	}
	changes, regionError, locked, err := r.changes(ctx, region, part)
	switch {
	case err != nil:
		return false, err
	case regionError != nil:
		return false, nil
	case locked != nil:
		return true, r.report(part, nil, &brpb.Error{Detail: &brpb.Error_KvError{KvError: locked}})
	}
	if len(changes) > 0 && r.Faults.TakeLoss() {
		r.Calls.Add("fault lost pair")
		changes = changes[1:]
	}
	files, err := r.write(ctx, region, part, changes)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		log.Printf("backup of region %d: %v", region.Meta.Id, err)
		return true, r.report(part, nil, &brpb.Error{Msg: storageMessage(err)})
	}
	r.Calls.Add("backup region")
	return true, r.report(part, files, nil)
}

func (r *run) report(part store.Span, files []*brpb.File, problem *brpb.Error) error {
	return r.stream.Send(&brpb.BackupResponse{Error: problem, StartKey: part.Start, EndKey: part.End, Files: files})
}

// changes are the pairs of the snapshot, or, for an incremental backup, what differs from the older snapshot.
func (r *run) changes(ctx context.Context, region store.Region, part store.Span) (
	[]change, *errorpb.Error, *kvrpcpb.KeyError, error,
) {
	now, answer, err := r.Store.ScanRegion(ctx, region, part, r.req.EndVersion)
	if err != nil || answer.RegionError != nil || answer.Error != nil {
		return nil, answer.GetRegionError(), answer.GetError(), err
	}
	if r.req.StartVersion == 0 {
		return puts(now), nil, nil, nil
	}
	before, answer, err := r.Store.ScanRegion(ctx, region, part, r.req.StartVersion)
	if err != nil || answer.RegionError != nil || answer.Error != nil {
		return nil, answer.GetRegionError(), answer.GetError(), err
	}
	return difference(before, now), nil, nil, nil
}

// leaveLock does what the lock fault orders: a transaction that wrote the first key of the part and then died.
func (r *run) leaveLock(ctx context.Context, region store.Region, part store.Span) error {
	if r.Faults.Plan().Locks == 0 {
		return nil
	}
	pairs, answer, err := r.Store.ScanRegion(ctx, region, part, r.req.EndVersion)
	if err != nil || answer.RegionError != nil || answer.Error != nil || len(pairs) == 0 {
		return err // nothing to lock here: the fault waits for the next part
	}
	ttl, ok := r.Faults.TakeLock()
	if !ok {
		return nil
	}
	start := r.req.EndVersion - r.locksLeft.Add(1) // every lock is a transaction of its own
	prewrite, err := r.Store.KvPrewrite(ctx, &kvrpcpb.PrewriteRequest{
		Context:     region.Context(),
		Mutations:   []*kvrpcpb.Mutation{{Op: kvrpcpb.Op_Put, Key: pairs[0].Key, Value: pairs[0].Value}},
		PrimaryLock: pairs[0].Key, StartVersion: start, LockTtl: ttl, TxnSize: 1,
	})
	if err != nil {
		return err
	}
	if prewrite.RegionError != nil || len(prewrite.Errors) > 0 {
		log.Printf("fault: no lock on %x, trying elsewhere: %v %v", pairs[0].Key, prewrite.RegionError, prewrite.Errors)
		r.Faults.ReturnLock()
		return nil
	}
	r.Calls.Add("fault lock")
	return nil
}

func failed(message string) *brpb.BackupResponse {
	return &brpb.BackupResponse{Error: &brpb.Error{Msg: message}}
}

// storageMessage puts TiKV's words for the two errors that br knows how to explain in front of the message.
func storageMessage(err error) string {
	var aws awserr.RequestFailure
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "Io(NotFound): " + err.Error()
	case errors.Is(err, fs.ErrPermission), errors.As(err, &aws) && aws.StatusCode() == http.StatusForbidden,
		strings.Contains(err.Error(), "AccessDenied"):
		return "Io(PermissionDenied): " + err.Error()
	}
	return err.Error()
}
