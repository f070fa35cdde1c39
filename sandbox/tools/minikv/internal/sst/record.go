package sst

import (
	"encoding/binary"
	"fmt"
)

// ShortValueMax is the longest value that TiKV keeps inside the write record; longer ones go to the default column family.
const ShortValueMax = 255

// The one-letter tags of a write record.
const (
	tagPut        = 'P'
	tagDelete     = 'D'
	tagShortValue = 'v'
)

// Record is one committed write, as the write column family stores it.
type Record struct {
	StartTS uint64
	Delete  bool
	// Short is the value itself when Inline, else the default column family has it.
	Short  []byte
	Inline bool
}

// Put is the record of a written value.
func Put(startTS uint64, value []byte) Record {
	if len(value) > ShortValueMax {
		return Record{StartTS: startTS}
	}
	return Record{StartTS: startTS, Short: value, Inline: true}
}

// Marshal is the record's stored form.
func (r Record) Marshal() []byte {
	if r.Delete {
		return binary.AppendUvarint([]byte{tagDelete}, r.StartTS)
	}
	out := binary.AppendUvarint([]byte{tagPut}, r.StartTS)
	if r.Inline {
		out = append(append(out, tagShortValue, byte(len(r.Short))), r.Short...)
	}
	return out
}

// ParseRecord reads a stored write record. Tags that a backup never holds (locks, rollbacks) are errors.
func ParseRecord(data []byte) (Record, error) {
	bad := func() (Record, error) { return Record{}, fmt.Errorf("sst: bad write record %x", data) }
	if len(data) < 2 || (data[0] != tagPut && data[0] != tagDelete) {
		return bad()
	}
	start, n := binary.Uvarint(data[1:])
	if n <= 0 {
		return bad()
	}
	record := Record{StartTS: start, Delete: data[0] == tagDelete}
	rest := data[1+n:]
	switch {
	case len(rest) == 0:
		return record, nil
	case rest[0] == tagShortValue && len(rest) >= 2 && len(rest) >= 2+int(rest[1]):
		record.Short, record.Inline = rest[2:2+int(rest[1])], true
		return record, nil
	}
	return bad()
}
