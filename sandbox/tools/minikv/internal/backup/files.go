package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"

	brpb "github.com/pingcap/kvproto/pkg/brpb"

	"sandbox/tools/minikv/internal/sst"
	"sandbox/tools/minikv/internal/store"
)

// change is one key as a backup holds it: its value, or that it is gone.
type change struct {
	store.Pair
	deleted bool
}

// puts are the changes from nothing to pairs.
func puts(pairs []store.Pair) []change {
	changes := make([]change, len(pairs))
	for i, pair := range pairs {
		changes[i] = change{Pair: pair}
	}
	return changes
}

// difference is what leads from one snapshot to a later one, in order of the keys.
func difference(before, now []store.Pair) []change {
	old := make(map[string][]byte, len(before))
	for _, pair := range before {
		old[string(pair.Key)] = pair.Value
	}
	var changes []change
	for _, pair := range now {
		if value, there := old[string(pair.Key)]; !there || !bytes.Equal(value, pair.Value) {
			changes = append(changes, change{Pair: pair})
		}
		delete(old, string(pair.Key))
	}
	for key := range old {
		changes = append(changes, change{Pair: store.Pair{Key: []byte(key)}, deleted: true})
	}
	sort.Slice(changes, func(i, j int) bool { return bytes.Compare(changes[i].Key, changes[j].Key) < 0 })
	return changes
}

const (
	defaultCF = "default"
	writeCF   = "write"
)

// tables are the contents of the two files of a region and the checksum of the pairs in them.
type tables struct {
	defaults, writes []sst.Entry
	sum              store.Sum
}

// newTables lays changes out as one transaction that committed just below the snapshot: unistore's scan does not tell
// the true commit timestamps.
func newTables(changes []change, endVersion uint64) tables {
	startTS, commitTS := endVersion-2, endVersion-1
	var t tables
	for _, c := range changes {
		record := sst.Record{StartTS: startTS, Delete: true}
		if !c.deleted {
			t.sum.Add(c.Key, c.Value)
			record = sst.Put(startTS, c.Value)
			if !record.Inline {
				t.defaults = append(t.defaults, sst.Entry{Key: sst.DataKey(c.Key, startTS), Value: c.Value})
			}
		}
		t.writes = append(t.writes, sst.Entry{Key: sst.DataKey(c.Key, commitTS), Value: record.Marshal()})
	}
	return t
}

// write stores the changes of a part and describes the files; no changes give no files.
func (r *run) write(ctx context.Context, region store.Region, part store.Span, changes []change) ([]*brpb.File, error) {
	content := newTables(changes, r.req.EndVersion)
	var files []*brpb.File
	for _, cf := range []struct {
		name    string
		entries []sst.Entry
	}{{defaultCF, content.defaults}, {writeCF, content.writes}} {
		if len(cf.entries) == 0 {
			continue
		}
		data, err := sst.Write(cf.entries, r.req.CompressionType)
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256(data)
		file := &brpb.File{
			Name: r.fileName(region, part, cf.name), Cf: cf.name, Sha256: digest[:], Size_: uint64(len(data)),
			StartKey: part.Start, EndKey: part.End, StartVersion: r.req.StartVersion, EndVersion: r.req.EndVersion,
		}
		if cf.name == writeCF { // as in TiKV, a pair is counted once, where it was committed
			file.Crc64Xor, file.TotalKvs, file.TotalBytes = content.sum.Crc64Xor, content.sum.TotalKvs, content.sum.TotalBytes
		}
		if err := r.out.WriteFile(ctx, file.Name, data); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// fileName follows TiKV: store, region, epoch, digest of the start key, a time in milliseconds, column family. The time
// is the snapshot's, so that the same region of the same backup gives the same name.
func (r *run) fileName(region store.Region, part store.Span, cf string) string {
	digest := sha256.Sum256(part.Start)
	return fmt.Sprintf("%d/%d_%d_%s_%d_%s.sst", r.Store.ID, region.Meta.Id, region.Meta.RegionEpoch.Version,
		hex.EncodeToString(digest[:]), r.req.EndVersion>>18, cf)
}
