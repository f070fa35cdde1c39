package importer

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	brpb "github.com/pingcap/kvproto/pkg/brpb"
	"github.com/pingcap/kvproto/pkg/encryptionpb"
	"github.com/pingcap/kvproto/pkg/import_sstpb"
	"github.com/pingcap/tidb/pkg/util/codec"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/faults"
	"sandbox/tools/minikv/internal/sst"
	"sandbox/tools/minikv/internal/store"
	"sandbox/tools/minikv/internal/store/storetest"
)

var ctx = context.Background()

func TestRewrite(t *testing.T) {
	rule := import_sstpb.RewriteRule{OldKeyPrefix: []byte("told_long_prefix"), NewKeyPrefix: []byte("tnew")}
	encode := func(plain string) []byte { return codec.EncodeBytes(nil, []byte(plain)) }
	got, err := rewrite(encode("told_long_prefix_row"), rule, import_sstpb.DownloadRequestType_Keyspace)
	if err != nil || !bytes.Equal(got, encode("tnew_row")) {
		t.Errorf("plain rule: %x, %v", got, err)
	}
	if _, err := rewrite(encode("tother"), rule, import_sstpb.DownloadRequestType_Keyspace); err == nil {
		t.Error("a key of another table was rewritten")
	}
	if _, err := rewrite([]byte("short"), rule, import_sstpb.DownloadRequestType_Keyspace); err == nil {
		t.Error("a key that is not encoded was rewritten")
	}
	// Over encoded keys a rule has prefixes of one length, cut before the last group's filling.
	old := import_sstpb.RewriteRule{OldKeyPrefix: encode("t1234567")[:8], NewKeyPrefix: encode("t7654321")[:8]}
	got, err = rewrite(encode("t1234567_row"), old, import_sstpb.DownloadRequestType_Legacy)
	if err != nil || !bytes.Equal(got, encode("t7654321_row")) {
		t.Errorf("encoded rule: %x, %v", got, err)
	}
}

// bench is a store with its ImportSST service and the folder of a backup.
type bench struct {
	*testing.T
	*Server
	folder string
}

func newBench(t *testing.T) bench {
	t.Helper()
	b := bench{T: t, folder: t.TempDir(), Server: &Server{Store: storetest.Open(t), Faults: &faults.Box{}, Calls: &calls.Log{}}}
	b.write("write.sst", []sst.Entry{
		{Key: sst.DataKey([]byte("told_a"), 20), Value: sst.Put(10, []byte("short")).Marshal()},
		{Key: sst.DataKey([]byte("told_b"), 20), Value: sst.Put(10, longText).Marshal()},
	})
	b.write("default.sst", []sst.Entry{{Key: sst.DataKey([]byte("told_b"), 10), Value: longText}})
	return b
}

var longText = bytes.Repeat([]byte("long "), 100)

func (b bench) write(name string, entries []sst.Entry) {
	b.Helper()
	data, err := sst.Write(entries, brpb.CompressionType_ZSTD)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.folder, name), data, 0o600); err != nil {
		b.Fatal(err)
	}
}

func (b bench) region(key string) store.Region {
	b.Helper()
	region, err := b.Store.RegionOf(ctx, []byte(key))
	if err != nil {
		b.Fatal(err)
	}
	return region
}

// download asks as br does for one file into the region of key.
func (b bench) download(key, name string) (*import_sstpb.DownloadRequest, *import_sstpb.DownloadResponse) {
	b.Helper()
	region := b.region(key)
	req := &import_sstpb.DownloadRequest{
		Name: name, RequestType: import_sstpb.DownloadRequestType_Keyspace,
		Sst: import_sstpb.SSTMeta{
			Uuid: []byte(key + name), CfName: strings.TrimSuffix(name, ".sst"), RegionId: region.Meta.Id, RegionEpoch: region.Meta.RegionEpoch,
		},
		RewriteRule:    import_sstpb.RewriteRule{OldKeyPrefix: []byte("told"), NewKeyPrefix: []byte("tnew")},
		StorageBackend: &brpb.StorageBackend{Backend: &brpb.StorageBackend_Local{Local: &brpb.Local{Path: b.folder}}},
	}
	answer, err := b.Download(ctx, req)
	if err != nil {
		b.Fatal(err)
	}
	return req, answer
}

// restore downloads both files into the region of key and ingests what came.
func (b bench) restore(key string) *import_sstpb.IngestResponse {
	b.Helper()
	var ssts []*import_sstpb.SSTMeta
	for _, name := range []string{"write.sst", "default.sst"} {
		req, answer := b.download(key, name)
		if answer.Error != nil {
			b.Fatal(answer.Error)
		}
		if !answer.IsEmpty {
			ssts = append(ssts, &req.Sst)
		}
	}
	answer, err := b.MultiIngest(ctx, &import_sstpb.MultiIngestRequest{Context: b.region(key).Context(), Ssts: ssts})
	if err != nil {
		b.Fatal(err)
	}
	return answer
}

func (b bench) content() map[string]string {
	b.Helper()
	pairs, locked, err := b.Store.Scan(ctx, store.Span{Start: []byte("t"), End: []byte("u")}, storetest.Now())
	if err != nil || locked != nil {
		b.Fatal(err, locked)
	}
	got := map[string]string{}
	for _, pair := range pairs {
		got[string(pair.Key)] = string(pair.Value)
	}
	return got
}

func (b bench) wantAll() {
	b.Helper()
	got := b.content()
	if len(got) != 2 || got["tnew_a"] != "short" || got["tnew_b"] != string(longText) {
		b.Errorf("restored: %v", got)
	}
}

func TestRestoreJoinsTheColumnFamilies(t *testing.T) {
	b := newBench(t)
	if answer := b.restore("t"); answer.Error != nil {
		t.Fatal(answer.Error)
	}
	b.wantAll()
	if len(b.downloads) != 0 {
		t.Errorf("%d downloads stay in memory", len(b.downloads))
	}
	pairs, _, err := b.Store.Scan(ctx, store.Span{Start: []byte("t"), End: []byte("u")}, 19)
	if err != nil || len(pairs) != 0 {
		t.Errorf("visible before the commit timestamp of the backup: %v %v", pairs, err)
	}
}

func TestEachRegionTakesItsPart(t *testing.T) {
	b := newBench(t)
	storetest.Split(t, b.Store, "tnew_b")
	b.restore("tnew_a")
	if got := b.content(); len(got) != 1 || got["tnew_a"] != "short" {
		t.Errorf("after the first region: %v", got)
	}
	b.restore("tnew_b")
	b.wantAll()
}

func TestIngestTwiceIsHarmless(t *testing.T) {
	b := newBench(t)
	b.restore("t")
	if answer := b.restore("t"); answer.Error != nil {
		t.Fatal(answer.Error)
	}
	b.wantAll()
}

func TestIngestDoesNotOverwriteLaterWrites(t *testing.T) {
	b := newBench(t)
	storetest.Put(t, b.Store, "tnew_a", []byte("newer"))
	req, _ := b.download("t", "write.sst")
	long, _ := b.download("t", "default.sst")
	_, err := b.MultiIngest(ctx, &import_sstpb.MultiIngestRequest{
		Context: b.region("t").Context(), Ssts: []*import_sstpb.SSTMeta{&req.Sst, &long.Sst},
	})
	if err == nil || b.content()["tnew_a"] != "newer" {
		t.Errorf("%v %v", err, b.content())
	}
}

func TestSplitBetweenDownloadAndIngest(t *testing.T) {
	b := newBench(t)
	before := b.region("t").Context()
	req, _ := b.download("t", "write.sst")
	storetest.Split(t, b.Store, "tnew_b")
	answer, err := b.MultiIngest(ctx, &import_sstpb.MultiIngestRequest{Context: before, Ssts: []*import_sstpb.SSTMeta{&req.Sst}})
	if err != nil || answer.GetError().GetEpochNotMatch() == nil {
		t.Errorf("%v %v", answer, err)
	}
	if got := b.content(); len(got) != 0 {
		t.Errorf("written all the same: %v", got)
	}
}

func TestRegionErrorFault(t *testing.T) {
	b := newBench(t)
	if err := b.Faults.Set(faults.Plan{RegionErrors: 1}); err != nil {
		t.Fatal(err)
	}
	if answer := b.restore("t"); answer.GetError().GetEpochNotMatch() == nil {
		t.Errorf("%v", answer)
	}
	if answer := b.restore("t"); answer.Error != nil {
		t.Error(answer.Error)
	}
	b.wantAll()
}

func TestLostPairFault(t *testing.T) {
	b := newBench(t)
	if err := b.Faults.Set(faults.Plan{LosePairs: 1}); err != nil {
		t.Fatal(err)
	}
	if answer := b.restore("t"); answer.Error != nil {
		t.Fatal(answer.Error)
	}
	if got := b.content(); len(got) != 1 || got["tnew_b"] == "" {
		t.Errorf("restored: %v", got)
	}
}

func TestDamagedFilesAreNotTaken(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.folder, "write.sst")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(data)
	damaged[10] ^= 1
	for name, content := range map[string][]byte{"flipped": damaged, "cut": data[:len(data)/2]} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, answer := b.download("t", "write.sst"); answer.GetError().GetMessage() == "" {
			t.Errorf("%s: %v", name, answer)
		}
	}
	if _, answer := b.download("t", "missing.sst"); !strings.Contains(answer.GetError().GetMessage(), "no such file") {
		t.Errorf("missing: %v", answer)
	}
}

func TestSizeIsCompared(t *testing.T) {
	b := newBench(t)
	req, _ := b.download("t", "write.sst")
	req.Sst.Length = 1
	answer, err := b.Download(ctx, req)
	if err != nil || !strings.Contains(answer.GetError().GetMessage(), "the backup says 1") {
		t.Errorf("%v %v", answer, err)
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t)
	for want, req := range map[string]*import_sstpb.DownloadRequest{
		"AES256_CTR":    {CipherInfo: &brpb.CipherInfo{CipherType: encryptionpb.EncryptionMethod_AES256_CTR}},
		"raw key-value": {IsRawKv: true},
	} {
		if _, err := b.Download(ctx, req); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	_, err := b.Apply(ctx, &import_sstpb.ApplyRequest{})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "Apply") {
		t.Errorf("apply: %v", err)
	}
	if answer, err := b.MultiIngest(ctx, &import_sstpb.MultiIngestRequest{}); err != nil || answer.Error != nil {
		t.Errorf("the question whether MultiIngest is known: %v %v", answer, err)
	}
}
