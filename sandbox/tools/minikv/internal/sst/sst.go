// Package sst reads and writes the data files of a backup in the layout that TiKV uses: one RocksDB table a column
// family, keys with the prefix z, memcomparable encoded, followed by the inverted timestamp.
package sst

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/sstable"
	brpb "github.com/pingcap/kvproto/pkg/brpb"
	"github.com/pingcap/tidb/pkg/util/codec"
)

// Entry is one key of a table file and its value, both as stored.
type Entry struct {
	Key   []byte
	Value []byte
}

const (
	dataPrefix     = 'z'
	timestampBytes = 8
)

// DataKey is the stored form of a plain key at ts.
func DataKey(plain []byte, ts uint64) []byte {
	return binary.BigEndian.AppendUint64(codec.EncodeBytes([]byte{dataPrefix}, plain), ^ts)
}

// SplitDataKey takes a stored key apart: the encoded key without prefix, and its timestamp.
func SplitDataKey(key []byte) (encoded []byte, ts uint64, err error) {
	if len(key) < 1+timestampBytes || key[0] != dataPrefix {
		return nil, 0, fmt.Errorf("sst: %x is no data key", key)
	}
	cut := len(key) - timestampBytes
	return key[1:cut], ^binary.BigEndian.Uint64(key[cut:]), nil
}

// compressions maps br's names to what the table writer has. LZ4 is missing there.
var compressions = map[brpb.CompressionType]sstable.Compression{
	brpb.CompressionType_UNKNOWN: sstable.ZstdCompression, // what br takes when it is told nothing
	brpb.CompressionType_SNAPPY:  sstable.SnappyCompression,
	brpb.CompressionType_ZSTD:    sstable.ZstdCompression,
}

// Supported tells whether Write knows the compression.
func Supported(compression brpb.CompressionType) bool {
	_, ok := compressions[compression]
	return ok
}

// buffer is the objstorage.Writable of a table kept in memory.
type buffer struct{ bytes.Buffer }

func (b *buffer) Write(p []byte) error { b.Buffer.Write(p); return nil }
func (b *buffer) Finish() error        { return nil }
func (b *buffer) Abort()               {}

// Write makes a table file of entries, which must be in ascending order of their keys.
func Write(entries []Entry, compression brpb.CompressionType) ([]byte, error) {
	codec, ok := compressions[compression]
	if !ok {
		return nil, fmt.Errorf("sst: compression %s is not available here; use zstd or snappy", compression)
	}
	out := &buffer{}
	writer := sstable.NewWriter(out, sstable.WriterOptions{TableFormat: sstable.TableFormatRocksDBv2, Compression: codec})
	for _, entry := range entries {
		if err := writer.Set(entry.Key, entry.Value); err != nil {
			return nil, fmt.Errorf("sst: %w", err)
		}
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("sst: %w", err)
	}
	return out.Bytes(), nil
}

// Read gives back the entries of a table file. Every block's checksum is verified; a damaged file is an error.
func Read(data []byte) ([]Entry, error) {
	reader, err := sstable.NewMemReader(data, sstable.ReaderOptions{})
	if err != nil {
		return nil, fmt.Errorf("sst: %w", err)
	}
	defer reader.Close()
	iter, err := reader.NewIter(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("sst: %w", err)
	}
	defer iter.Close()
	var entries []Entry
	for key, lazy := iter.First(); key != nil; key, lazy = iter.Next() {
		value, _, err := lazy.Value(nil)
		if err != nil {
			return nil, fmt.Errorf("sst: %w", err)
		}
		entries = append(entries, Entry{Key: bytes.Clone(key.UserKey), Value: bytes.Clone(value)})
	}
	if err := iter.Error(); err != nil {
		return nil, fmt.Errorf("sst: %w", err) // a damaged block ends the loop early
	}
	return entries, nil
}
