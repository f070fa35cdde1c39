package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	brpb "github.com/pingcap/kvproto/pkg/brpb"
	"github.com/pingcap/kvproto/pkg/encryptionpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/pkg/util/codec"
	"google.golang.org/grpc"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/faults"
	"sandbox/tools/minikv/internal/sst"
	"sandbox/tools/minikv/internal/store"
	"sandbox/tools/minikv/internal/store/storetest"
)

// answers collects what the service streams.
type answers struct {
	grpc.ServerStream
	ctx  context.Context
	list []*brpb.BackupResponse
}

func (a *answers) Context() context.Context { return a.ctx }
func (a *answers) Send(r *brpb.BackupResponse) error {
	a.list = append(a.list, r)
	return nil
}

// bench is a store with its Backup service and a folder to write to.
type bench struct {
	*testing.T
	*Server
	folder string
}

func newBench(t *testing.T) bench {
	t.Helper()
	return bench{T: t, folder: t.TempDir(), Server: &Server{Store: storetest.Open(t), Faults: &faults.Box{}, Calls: &calls.Log{}}}
}

func (b bench) request(start, end string) *brpb.BackupRequest {
	return &brpb.BackupRequest{
		StartKey: []byte(start), EndKey: []byte(end), EndVersion: storetest.Now(), CompressionType: brpb.CompressionType_ZSTD,
		StorageBackend: &brpb.StorageBackend{Backend: &brpb.StorageBackend_Local{Local: &brpb.Local{Path: b.folder}}},
	}
}

func (b bench) run(req *brpb.BackupRequest) []*brpb.BackupResponse {
	b.Helper()
	out := &answers{ctx: context.Background()}
	if err := b.Backup(req, out); err != nil {
		b.Fatal(err)
	}
	return out.list
}

// read gives "key=value" and "-key" of the files, checking what the answer says about each.
func (b bench) read(files []*brpb.File) string {
	b.Helper()
	long, out := map[string][]byte{}, ""
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(b.folder, file.Name))
		if err != nil {
			b.Fatal(err)
		}
		if digest := sha256.Sum256(data); !bytes.Equal(digest[:], file.Sha256) || file.Size_ != uint64(len(data)) {
			b.Errorf("%s: digest or size differs", file.Name)
		}
		entries, err := sst.Read(data)
		if err != nil {
			b.Fatal(err)
		}
		var sum store.Sum
		for _, entry := range entries {
			encoded, ts, err := sst.SplitDataKey(entry.Key)
			if err != nil {
				b.Fatal(err)
			}
			_, plain, err := codec.DecodeBytes(encoded, nil)
			if err != nil {
				b.Fatal(err)
			}
			if ts >= file.EndVersion {
				b.Errorf("%s: an entry at %d, after the snapshot %d", file.Name, ts, file.EndVersion)
			}
			if file.Cf == "default" {
				long[string(plain)] = entry.Value
				continue
			}
			record, err := sst.ParseRecord(entry.Value)
			if err != nil {
				b.Fatal(err)
			}
			if record.Delete {
				out += fmt.Sprintf("-%s ", plain)
				continue
			}
			value := record.Short
			if !record.Inline {
				value = long[string(plain)]
			}
			sum.Add(plain, value)
			out += fmt.Sprintf("%s=%d ", plain, len(value))
		}
		if file.Cf == "write" && (store.Sum{Crc64Xor: file.Crc64Xor, TotalKvs: file.TotalKvs, TotalBytes: file.TotalBytes}) != sum {
			b.Errorf("%s: checksum differs", file.Name)
		}
	}
	return out
}

func TestOneAnswerARegionWithItsOwnFiles(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	storetest.Put(t, b.Store, "tm", bytes.Repeat([]byte("x"), 300))
	storetest.Put(t, b.Store, "tz", []byte("outside"))
	storetest.Split(t, b.Store, "tm")
	storetest.Split(t, b.Store, "tn")
	got := b.run(b.request("t", "tz"))
	if len(got) != 3 {
		t.Fatalf("%d answers", len(got))
	}
	for i, want := range []struct {
		start, end, pairs string
		files             int
	}{{"t", "tm", "ta=1 ", 1}, {"tm", "tn", "tm=300 ", 2}, {"tn", "tz", "", 0}} {
		answer := got[i]
		if answer.Error != nil || string(answer.StartKey) != want.start || string(answer.EndKey) != want.end {
			t.Errorf("answer %d: %v", i, answer)
		}
		if pairs := b.read(answer.Files); pairs != want.pairs || len(answer.Files) != want.files {
			t.Errorf("answer %d: %q in %d files", i, pairs, len(answer.Files))
		}
	}
}

func TestSubRangesReplaceTheRange(t *testing.T) {
	b := newBench(t)
	for _, key := range []string{"ta", "tb", "tc"} {
		storetest.Put(t, b.Store, key, []byte(key))
	}
	req := b.request("t", "u")
	req.SubRanges = []*kvrpcpb.KeyRange{
		{StartKey: []byte("ta"), EndKey: []byte("tb")}, {StartKey: []byte("tc"), EndKey: []byte("td")},
	}
	var pairs string
	for _, answer := range b.run(req) {
		pairs += b.read(answer.Files)
	}
	if pairs != "ta=2 tc=2 " {
		t.Errorf("%q", pairs)
	}
}

func TestIncrementalHoldsChangesAndDeletions(t *testing.T) {
	b := newBench(t)
	for _, key := range []string{"ta", "tb", "tc"} {
		storetest.Put(t, b.Store, key, []byte(key))
	}
	then := storetest.Now()
	storetest.Put(t, b.Store, "ta", nil)
	storetest.Put(t, b.Store, "tb", []byte("longer"))
	storetest.Put(t, b.Store, "td", []byte("new"))
	req := b.request("t", "u")
	req.StartVersion = then
	got := b.run(req)
	if pairs := b.read(got[0].Files); pairs != "-ta tb=6 td=3 " {
		t.Errorf("%q", pairs)
	}
	if file := got[0].Files[0]; file.TotalKvs != 2 || file.StartVersion != then {
		t.Errorf("%+v", file)
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	for want, change := range map[string]func(*brpb.BackupRequest){
		"encryption (--crypter.method, here AES256_CTR)": func(r *brpb.BackupRequest) {
			r.CipherInfo = &brpb.CipherInfo{CipherType: encryptionpb.EncryptionMethod_AES256_CTR}
		},
		"compression LZ4":  func(r *brpb.BackupRequest) { r.CompressionType = brpb.CompressionType_LZ4 },
		"raw key-value":    func(r *brpb.BackupRequest) { r.IsRawKv = true },
		"file-copy backup": func(r *brpb.BackupRequest) { r.Mode = brpb.BackupMode_FILE },
		"API v2":           func(r *brpb.BackupRequest) { r.DstApiVersion = kvrpcpb.APIVersion_V2 },
	} {
		req := b.request("t", "u")
		change(req)
		got := b.run(req)
		if len(got) <= 10 {
			t.Errorf("%s: %d answers; br forgives ten", want, len(got))
		}
		for _, answer := range got {
			if !strings.Contains(answer.GetError().GetMsg(), want) || len(answer.Files) > 0 {
				t.Errorf("%s: %v", want, answer)
			}
		}
	}
	if left, _ := os.ReadDir(b.folder); len(left) > 0 {
		t.Errorf("a refused backup wrote %v", left)
	}
}

func TestRegionErrorFaultIsMadeOnce(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	if err := b.Faults.Set(faults.Plan{RegionErrors: 1}); err != nil {
		t.Fatal(err)
	}
	first := b.run(b.request("t", "u"))
	if first[0].GetError().GetRegionError().GetEpochNotMatch() == nil {
		t.Errorf("%v", first[0])
	}
	if second := b.run(b.request("t", "u")); second[0].Error != nil || len(second[0].Files) != 1 {
		t.Errorf("%v", second[0])
	}
}

func TestLockFaultIsARealLock(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	if err := b.Faults.Set(faults.Plan{Locks: 1, LockTTLMS: 5}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it stays until somebody resolves it
		got := b.run(b.request("t", "u"))
		lock := got[0].GetError().GetKvError().GetLocked()
		if lock == nil || string(lock.Key) != "ta" || lock.LockTtl != 5 {
			t.Fatalf("%v", got[0])
		}
	}
	if n := b.Calls.Counts()["fault lock"]; n != 1 {
		t.Errorf("%d locks", n)
	}
}

func TestEveryLockIsItsOwnTransaction(t *testing.T) {
	b := newBench(t)
	for _, key := range []string{"ta", "tm", "tz"} {
		storetest.Put(t, b.Store, key, []byte(key))
	}
	storetest.Split(t, b.Store, "tm")
	storetest.Split(t, b.Store, "tz")
	if err := b.Faults.Set(faults.Plan{Locks: 2, LockTTLMS: 5}); err != nil {
		t.Fatal(err)
	}
	got := b.run(b.request("t", "u"))
	first, second := got[0].GetError().GetKvError().GetLocked(), got[1].GetError().GetKvError().GetLocked()
	if first == nil || second == nil || first.LockVersion == second.LockVersion {
		t.Errorf("%v, %v", first, second)
	}
	if got[2].Error != nil || b.Calls.Counts()["fault lock"] != 2 {
		t.Errorf("%v, %v", got[2], b.Calls.Counts())
	}
}

func TestLostPairIsNotInTheChecksumEither(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	storetest.Put(t, b.Store, "tb", []byte("2"))
	if err := b.Faults.Set(faults.Plan{LosePairs: 1}); err != nil {
		t.Fatal(err)
	}
	if got := b.run(b.request("t", "u")); b.read(got[0].Files) != "tb=1 " {
		t.Errorf("%v", got)
	}
}

func TestRequestsThatBeginTogetherShareANewFolder(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	base := b.folder
	for round := range 20 {
		b.folder = filepath.Join(base, fmt.Sprint(round))
		var together sync.WaitGroup
		problems := make([]error, 8)
		for number := range problems {
			together.Add(1)
			go func() {
				defer together.Done()
				out := &answers{ctx: context.Background()}
				problems[number] = b.Backup(b.request("t", "u"), out)
				for _, answer := range out.list {
					if answer.Error != nil {
						problems[number] = errors.New(answer.Error.String())
					}
				}
			}()
		}
		together.Wait()
		if err := errors.Join(problems...); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func TestStorageErrorsBearTheWordsThatBrKnows(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "ta", []byte("1"))
	b.folder = filepath.Join(b.folder, "file")
	if err := os.WriteFile(b.folder, nil, 0o600); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	for _, answer := range b.run(b.request("t", "u")) {
		if answer.GetError().GetMsg() == "" {
			t.Errorf("%v", answer)
		}
	}
	if got := storageMessage(&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}); !strings.HasPrefix(got, "Io(NotFound)") {
		t.Error(got)
	}
	if got := storageMessage(fmt.Errorf("write: %w", fs.ErrPermission)); !strings.HasPrefix(got, "Io(PermissionDenied)") {
		t.Error(got)
	}
	if got := storageMessage(errors.New("disk full")); got != "disk full" {
		t.Error(got)
	}
}
