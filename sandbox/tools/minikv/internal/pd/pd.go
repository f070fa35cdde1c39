// Package pd answers as one PD: its gRPC services, and its HTTP API as far as tidb-server and br call it.
package pd

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/keyspacepb"
	"github.com/pingcap/kvproto/pkg/meta_storagepb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/resource_manager"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv"
	pdclient "github.com/tikv/pd/client"
	"google.golang.org/grpc"

	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/store"
)

// Server is PD's gRPC service and, through ServeHTTP, its HTTP API. Regions, stores and timestamps are unistore's.
type Server struct {
	pdpb.UnimplementedPDServer
	store     *store.Store
	calls     *calls.Log
	address   string
	clusterID uint64
	version   string

	mu                sync.Mutex
	serviceSafePoints map[string]safePoint
	externalTS        uint64
}

// safePoint is what one service asked garbage collection to spare, and until when.
type safePoint struct {
	ts    uint64
	until time.Time
}

// New makes the PD of one store. address is where its clients are told to find it; version is without the leading v.
func New(s *store.Store, log *calls.Log, address string, clusterID uint64, version string) *Server {
	return &Server{
		store: s, calls: log, address: address, clusterID: clusterID, version: version, serviceSafePoints: map[string]safePoint{},
	}
}

// Register adds every service that PD has on its client port.
func (s *Server) Register(g *grpc.Server) {
	pdpb.RegisterPDServer(g, s)
	resource_manager.RegisterResourceManagerServer(g, &resourceManager{calls: s.calls})
	meta_storagepb.RegisterMetaStorageServer(g, &metaStorage{calls: s.calls, clusterID: s.clusterID})
	keyspacepb.RegisterKeyspaceServer(g, &keyspacepb.UnimplementedKeyspaceServer{})
}

// Handler is PD's HTTP API.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

func (s *Server) header() *pdpb.ResponseHeader { return &pdpb.ResponseHeader{ClusterId: s.clusterID} }

func (s *Server) member() *pdpb.Member {
	urls := []string{"http://" + s.address}
	return &pdpb.Member{Name: "pd", MemberId: 1, ClientUrls: urls, PeerUrls: urls}
}

// GetClusterInfo says that there are no microservices.
func (s *Server) GetClusterInfo(context.Context, *pdpb.GetClusterInfoRequest) (*pdpb.GetClusterInfoResponse, error) {
	s.calls.Add("pd GetClusterInfo")
	return &pdpb.GetClusterInfoResponse{Header: s.header(), ServiceModes: []pdpb.ServiceMode{pdpb.ServiceMode_PD_SVC_MODE}}, nil
}

// GetMembers names this one member, the leader of everything.
func (s *Server) GetMembers(context.Context, *pdpb.GetMembersRequest) (*pdpb.GetMembersResponse, error) {
	s.calls.Add("pd GetMembers")
	m := s.member()
	return &pdpb.GetMembersResponse{
		Header: s.header(), Members: []*pdpb.Member{m}, Leader: m, EtcdLeader: m,
		TsoAllocatorLeaders: map[string]*pdpb.Member{"global": m},
	}, nil
}

// Tso hands out consecutive timestamps; each reply names the last of its batch.
func (s *Server) Tso(stream pdpb.PD_TsoServer) error {
	s.calls.Add("pd Tso")
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &pdpb.TsoResponse{Header: s.header(), Count: req.GetCount(), Timestamp: lastOf(req.GetCount())}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// lastOf takes count timestamps of one millisecond, as PD's replies promise.
func lastOf(count uint32) *pdpb.Timestamp {
	var physical, logical int64
	for taken := uint32(0); taken < count; taken++ {
		p, l := tikv.GetTS()
		if taken > 0 && p != physical {
			taken = 0 // a new millisecond began: count again inside it
		}
		physical, logical = p, l
	}
	return &pdpb.Timestamp{Physical: physical, Logical: logical}
}

// GetMinTS is the current timestamp: there is one allocator.
func (s *Server) GetMinTS(context.Context, *pdpb.GetMinTSRequest) (*pdpb.GetMinTSResponse, error) {
	return &pdpb.GetMinTSResponse{Header: s.header(), Timestamp: lastOf(1)}, nil
}

// Bootstrap does nothing: the cluster is there from the start.
func (s *Server) Bootstrap(context.Context, *pdpb.BootstrapRequest) (*pdpb.BootstrapResponse, error) {
	return &pdpb.BootstrapResponse{Header: s.header()}, nil
}

// IsBootstrapped is always true.
func (s *Server) IsBootstrapped(context.Context, *pdpb.IsBootstrappedRequest) (*pdpb.IsBootstrappedResponse, error) {
	return &pdpb.IsBootstrappedResponse{Header: s.header(), Bootstrapped: true}, nil
}

// AllocID gives a new id of regions, peers and stores.
func (s *Server) AllocID(context.Context, *pdpb.AllocIDRequest) (*pdpb.AllocIDResponse, error) {
	s.calls.Add("pd AllocID")
	return &pdpb.AllocIDResponse{Header: s.header(), Id: s.store.Regions.AllocID()}, nil
}

// IsSnapshotRecovering is always false.
func (s *Server) IsSnapshotRecovering(
	context.Context, *pdpb.IsSnapshotRecoveringRequest,
) (*pdpb.IsSnapshotRecoveringResponse, error) {
	return &pdpb.IsSnapshotRecoveringResponse{Header: s.header()}, nil
}

// GetClusterConfig says that every region has one replica.
func (s *Server) GetClusterConfig(context.Context, *pdpb.GetClusterConfigRequest) (*pdpb.GetClusterConfigResponse, error) {
	s.calls.Add("pd GetClusterConfig")
	return &pdpb.GetClusterConfigResponse{Header: s.header(), Cluster: &metapb.Cluster{Id: s.clusterID, MaxPeerCount: 1}}, nil
}

// GetStore answers from unistore's books.
func (s *Server) GetStore(ctx context.Context, req *pdpb.GetStoreRequest) (*pdpb.GetStoreResponse, error) {
	s.calls.Add("pd GetStore")
	found, err := s.store.PD.GetStore(ctx, req.StoreId)
	return &pdpb.GetStoreResponse{Header: s.header(), Store: found}, err
}

// GetAllStores lists the one store, alive now.
func (s *Server) GetAllStores(ctx context.Context, _ *pdpb.GetAllStoresRequest) (*pdpb.GetAllStoresResponse, error) {
	s.calls.Add("pd GetAllStores")
	found, err := s.store.PD.GetAllStores(ctx)
	alive := make([]*metapb.Store, 0, len(found))
	for _, one := range found {
		beating := *one
		beating.LastHeartbeat = time.Now().UnixNano()
		alive = append(alive, &beating)
	}
	return &pdpb.GetAllStoresResponse{Header: s.header(), Stores: alive}, err
}

func (s *Server) regionAnswer(found *pdclient.Region, err error) (*pdpb.GetRegionResponse, error) {
	if err != nil {
		return nil, err
	}
	answer := &pdpb.GetRegionResponse{Header: s.header()}
	if found != nil && found.Meta != nil {
		answer.Region, answer.Leader = found.Meta, found.Leader
	}
	return answer, nil
}

// GetRegion is the region that holds an encoded key.
func (s *Server) GetRegion(ctx context.Context, req *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	s.calls.Add("pd GetRegion")
	return s.regionAnswer(s.store.PD.GetRegion(ctx, req.RegionKey))
}

// GetPrevRegion is the region before the one that holds an encoded key.
func (s *Server) GetPrevRegion(ctx context.Context, req *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	s.calls.Add("pd GetPrevRegion")
	found, err := s.store.PD.GetRegion(ctx, req.RegionKey)
	if err != nil || found == nil || found.Meta == nil || len(found.Meta.StartKey) == 0 {
		return s.regionAnswer(nil, err)
	}
	// unistore's notion of "before a key" includes the key's own region, except at its very start.
	return s.regionAnswer(s.store.PD.GetPrevRegion(ctx, found.Meta.StartKey))
}

// GetRegionByID is the region with that id.
func (s *Server) GetRegionByID(ctx context.Context, req *pdpb.GetRegionByIDRequest) (*pdpb.GetRegionResponse, error) {
	s.calls.Add("pd GetRegionByID")
	return s.regionAnswer(s.store.PD.GetRegionByID(ctx, req.RegionId))
}

func limitOf(n int32) int {
	if n <= 0 {
		return math.MaxInt32
	}
	return int(n)
}

func described(found []*pdclient.Region) []*pdpb.Region {
	regions := make([]*pdpb.Region, 0, len(found))
	for _, one := range found {
		regions = append(regions, &pdpb.Region{Region: one.Meta, Leader: one.Leader})
	}
	return regions
}

// ScanRegions lists the regions of one range of encoded keys.
func (s *Server) ScanRegions(ctx context.Context, req *pdpb.ScanRegionsRequest) (*pdpb.ScanRegionsResponse, error) {
	s.calls.Add("pd ScanRegions")
	found, err := s.store.PD.ScanRegions(ctx, req.StartKey, req.EndKey, limitOf(req.Limit))
	if err != nil {
		return nil, err
	}
	answer := &pdpb.ScanRegionsResponse{Header: s.header(), Regions: described(found)}
	for _, one := range found { // older clients read these two
		answer.RegionMetas = append(answer.RegionMetas, one.Meta)
		answer.Leaders = append(answer.Leaders, one.Leader)
	}
	return answer, nil
}

// BatchScanRegions lists the regions of several ranges of encoded keys.
func (s *Server) BatchScanRegions(ctx context.Context, req *pdpb.BatchScanRegionsRequest) (*pdpb.BatchScanRegionsResponse, error) {
	s.calls.Add("pd BatchScanRegions")
	ranges := make([]pdclient.KeyRange, 0, len(req.Ranges))
	for _, r := range req.Ranges {
		ranges = append(ranges, pdclient.KeyRange{StartKey: r.StartKey, EndKey: r.EndKey})
	}
	found, err := s.store.PD.BatchScanRegions(ctx, ranges, limitOf(req.Limit))
	if err != nil {
		return nil, err
	}
	return &pdpb.BatchScanRegionsResponse{Header: s.header(), Regions: described(found)}, nil
}

// ScatterRegion is done at once: there is one store.
func (s *Server) ScatterRegion(context.Context, *pdpb.ScatterRegionRequest) (*pdpb.ScatterRegionResponse, error) {
	s.calls.Add("pd ScatterRegion")
	return &pdpb.ScatterRegionResponse{Header: s.header(), FinishedPercentage: 100}, nil
}

// GetOperator says that the scattering of the region has succeeded.
func (s *Server) GetOperator(_ context.Context, req *pdpb.GetOperatorRequest) (*pdpb.GetOperatorResponse, error) {
	s.calls.Add("pd GetOperator")
	return &pdpb.GetOperatorResponse{
		Header: s.header(), RegionId: req.RegionId, Status: pdpb.OperatorStatus_SUCCESS, Desc: []byte("scatter-region"),
	}, nil
}
