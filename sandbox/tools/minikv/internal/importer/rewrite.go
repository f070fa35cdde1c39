// Package importer is the part of TiKV's ImportSST service that br uses to restore a snapshot.
package importer

import (
	"bytes"
	"fmt"

	"github.com/pingcap/kvproto/pkg/import_sstpb"
	"github.com/pingcap/tidb/pkg/util/codec"
)

// rewrite turns the encoded key of a backup into the encoded key of the cluster restored to. br gives its rule over
// plain keys in keyspace mode, over encoded keys in the older one.
func rewrite(encoded []byte, rule import_sstpb.RewriteRule, mode import_sstpb.DownloadRequestType) ([]byte, error) {
	if mode != import_sstpb.DownloadRequestType_Keyspace {
		return swapPrefix(encoded, rule)
	}
	_, plain, err := codec.DecodeBytes(encoded, nil)
	if err != nil {
		return nil, fmt.Errorf("importer: %x is no encoded key: %w", encoded, err)
	}
	plain, err = swapPrefix(plain, rule)
	if err != nil {
		return nil, err
	}
	return codec.EncodeBytes(nil, plain), nil
}

func swapPrefix(key []byte, rule import_sstpb.RewriteRule) ([]byte, error) {
	rest, ok := bytes.CutPrefix(key, rule.OldKeyPrefix)
	if !ok {
		return nil, fmt.Errorf("importer: key %x does not begin with the rule's prefix %x", key, rule.OldKeyPrefix)
	}
	return append(bytes.Clone(rule.NewKeyPrefix), rest...), nil
}
