package sst

import (
	"bytes"
	"strings"
	"testing"

	brpb "github.com/pingcap/kvproto/pkg/brpb"
	"github.com/pingcap/tidb/pkg/util/codec"
)

func sample() []Entry {
	var entries []Entry
	for i := byte(0); i < 200; i++ {
		entries = append(entries, Entry{Key: DataKey([]byte{'t', i}, 42), Value: bytes.Repeat([]byte{i}, int(i))})
	}
	return entries
}

func TestRoundTrip(t *testing.T) {
	for _, compression := range []brpb.CompressionType{brpb.CompressionType_SNAPPY, brpb.CompressionType_ZSTD, brpb.CompressionType_UNKNOWN} {
		data, err := Write(sample(), compression)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Read(data)
		if err != nil {
			t.Fatal(err)
		}
		want := sample()
		if len(got) != len(want) {
			t.Fatalf("%s: %d entries, want %d", compression, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Key, want[i].Key) || !bytes.Equal(got[i].Value, want[i].Value) {
				t.Fatalf("%s: entry %d differs", compression, i)
			}
		}
	}
}

func TestCompressionIsHonoured(t *testing.T) {
	entries := []Entry{{Key: DataKey([]byte("t"), 1), Value: bytes.Repeat([]byte("abcdefgh"), 4000)}}
	snappy, err := Write(entries, brpb.CompressionType_SNAPPY)
	if err != nil {
		t.Fatal(err)
	}
	zstd, err := Write(entries, brpb.CompressionType_ZSTD)
	if err != nil {
		t.Fatal(err)
	}
	if len(zstd) >= len(snappy) {
		t.Errorf("zstd %d bytes, snappy %d bytes", len(zstd), len(snappy))
	}
	if _, err := Write(entries, brpb.CompressionType_LZ4); err == nil || !strings.Contains(err.Error(), "LZ4") {
		t.Errorf("lz4: error %v", err)
	}
}

func TestDamageIsNoticed(t *testing.T) {
	data, err := Write(sample(), brpb.CompressionType_SNAPPY)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/3] ^= 1
	if _, err := Read(data); err == nil {
		t.Error("a flipped bit was read without an error")
	}
	if _, err := Read(data[:len(data)/2]); err == nil {
		t.Error("half a file was read without an error")
	}
}

func TestDataKey(t *testing.T) {
	encoded, ts, err := SplitDataKey(DataKey([]byte("t_key longer than eight"), 99))
	if err != nil {
		t.Fatal(err)
	}
	if _, plain, err := codec.DecodeBytes(encoded, nil); err != nil || string(plain) != "t_key longer than eight" || ts != 99 {
		t.Fatalf("%q at %d, %v", plain, ts, err)
	}
	if bytes.Compare(DataKey([]byte("t"), 2), DataKey([]byte("t"), 1)) >= 0 {
		t.Error("the newer version must come first")
	}
	if _, _, err := SplitDataKey([]byte("x12345678")); err == nil {
		t.Error("a key without the prefix was taken")
	}
}

func TestRecord(t *testing.T) {
	long := bytes.Repeat([]byte("v"), ShortValueMax+1)
	for name, record := range map[string]Record{
		"short":  Put(7, []byte("value")),
		"empty":  Put(7, []byte{}),
		"limit":  Put(7, long[:ShortValueMax]),
		"long":   Put(7, long),
		"delete": {StartTS: 7, Delete: true},
	} {
		got, err := ParseRecord(record.Marshal())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.StartTS != 7 || got.Delete != record.Delete || got.Inline != record.Inline || !bytes.Equal(got.Short, record.Short) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if Put(7, long).Inline {
		t.Error("a long value was kept inline")
	}
	for _, bad := range [][]byte{nil, {'P'}, {'L', 1}, {'P', 1, 'v'}, {'P', 1, 'v', 9, 'x'}, {'P', 1, '?'}} {
		if _, err := ParseRecord(bad); err == nil {
			t.Errorf("%x was taken", bad)
		}
	}
}
