// Package store is the fixture's one TiKV: unistore with the calls that br and tidb-server need and unistore lacks.
package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/server"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv"
	"github.com/pingcap/tidb/pkg/util/codec"
	"github.com/tikv/pd/client"

	"sandbox/tools/minikv/internal/calls"
)

// Options describe the store to open.
type Options struct {
	// Dir is where the engine keeps its files; their contents do not survive a restart.
	Dir string
	// ClusterID is the cluster that the store belongs to.
	ClusterID uint64
	// Address and StatusAddress are what PD tells clients about the store.
	Address, StatusAddress string
	// Version is the TiKV version that the store claims.
	Version string
}

// Store is one TiKV-like store that leads every region.
type Store struct {
	*tikv.Server
	// Regions and PD are unistore's own books of regions and stores; the PD service answers from them.
	Regions *tikv.MockRegionManager
	PD      *tikv.MockPD
	// ID is the store's id in PD.
	ID    uint64
	calls *calls.Log
}

// Open starts the store with one region over all keys.
func Open(options Options, log *calls.Log) (*Store, error) {
	conf := engineConfig(filepath.Join(options.Dir, "kv"))
	if err := os.MkdirAll(conf.Engine.DBPath, 0o750); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	inner, regions, pd, err := server.NewMock(&conf, options.ClusterID)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{Server: inner, Regions: regions, PD: pd, ID: regions.AllocID(), calls: log}
	now := time.Now()
	err = regions.Bootstrap(
		[]*metapb.Store{{
			Id: s.ID, Address: options.Address, StatusAddress: options.StatusAddress, Version: options.Version,
			State: metapb.StoreState_Up, StartTimestamp: now.Unix(), LastHeartbeat: now.UnixNano(),
		}},
		&metapb.Region{
			Id: regions.AllocID(), RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: 1},
			Peers: []*metapb.Peer{{Id: regions.AllocID(), StoreId: s.ID}},
		},
	)
	if err != nil {
		inner.Stop()
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

// engineConfig is unistore's default, made small: the data of a test lives in memory.
func engineConfig(path string) config.Config {
	conf := config.DefaultConf
	conf.Server.Raft = false
	conf.Engine.DBPath = path
	conf.Engine.VolatileMode = true
	conf.Engine.ValueThreshold = 0
	conf.Engine.MaxMemTableSize = 12 << 20
	conf.Engine.VlogFileSize = 16 << 20
	conf.Engine.NumCompactors = 1
	conf.Engine.SyncWrite = false
	conf.Engine.CompactL0WhenClose = false
	return conf
}

// Region is a region with its bounds as plain keys; an empty End is the end of all keys.
type Region struct {
	Meta       *metapb.Region
	Leader     *metapb.Peer
	Start, End []byte
}

// Context names the region in a request to the store.
func (r Region) Context() *kvrpcpb.Context {
	return &kvrpcpb.Context{RegionId: r.Meta.Id, RegionEpoch: r.Meta.RegionEpoch, Peer: r.Leader}
}

// RegionOf is the region that holds the plain key.
func (s *Store) RegionOf(ctx context.Context, plain []byte) (Region, error) {
	found, err := s.PD.GetRegion(ctx, codec.EncodeBytes(nil, plain))
	return plainRegion(found, err, fmt.Sprintf("key %x", plain))
}

// RegionByID is the region with that id.
func (s *Store) RegionByID(ctx context.Context, id uint64) (Region, error) {
	found, err := s.PD.GetRegionByID(ctx, id)
	return plainRegion(found, err, fmt.Sprintf("id %d", id))
}

func plainRegion(found *pd.Region, err error, wanted string) (Region, error) {
	if err != nil {
		return Region{}, fmt.Errorf("store: region of %s: %w", wanted, err)
	}
	if found == nil || found.Meta == nil {
		return Region{}, fmt.Errorf("store: no region of %s", wanted)
	}
	region := Region{Meta: found.Meta, Leader: found.Leader}
	for _, bound := range []struct {
		encoded []byte
		plain   *[]byte
	}{{found.Meta.StartKey, &region.Start}, {found.Meta.EndKey, &region.End}} {
		if len(bound.encoded) == 0 {
			continue
		}
		if _, *bound.plain, err = codec.DecodeBytes(bound.encoded, nil); err != nil {
			return Region{}, fmt.Errorf("store: bounds of the region of %s: %w", wanted, err)
		}
	}
	return region, nil
}

// StaleEpoch is TiKV's answer to a request for a region that has changed since.
func StaleEpoch(current *metapb.Region) *errorpb.Error {
	return &errorpb.Error{
		Message:       "epoch not match",
		EpochNotMatch: &errorpb.EpochNotMatch{CurrentRegions: []*metapb.Region{current}},
	}
}

// SameEpoch compares two epochs of one region.
func SameEpoch(a, b *metapb.RegionEpoch) bool {
	return a.GetVersion() == b.GetVersion() && a.GetConfVer() == b.GetConfVer()
}
