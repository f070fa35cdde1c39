package pd

import (
	"context"
	"math"

	"github.com/pingcap/kvproto/pkg/meta_storagepb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	rm "github.com/pingcap/kvproto/pkg/resource_manager"

	"sandbox/tools/minikv/internal/calls"
)

// LoadGlobalConfig knows no setting: every asked name comes back empty.
func (s *Server) LoadGlobalConfig(_ context.Context, req *pdpb.LoadGlobalConfigRequest) (*pdpb.LoadGlobalConfigResponse, error) {
	s.calls.Add("pd LoadGlobalConfig")
	answer := &pdpb.LoadGlobalConfigResponse{}
	for _, name := range req.Names {
		answer.Items = append(answer.Items, &pdpb.GlobalConfigItem{Name: req.ConfigPath + name})
	}
	return answer, nil
}

// StoreGlobalConfig is accepted and forgotten.
func (s *Server) StoreGlobalConfig(context.Context, *pdpb.StoreGlobalConfigRequest) (*pdpb.StoreGlobalConfigResponse, error) {
	s.calls.Add("pd StoreGlobalConfig")
	return &pdpb.StoreGlobalConfigResponse{}, nil
}

// WatchGlobalConfig never has news.
func (s *Server) WatchGlobalConfig(_ *pdpb.WatchGlobalConfigRequest, stream pdpb.PD_WatchGlobalConfigServer) error {
	s.calls.Add("pd WatchGlobalConfig")
	<-stream.Context().Done()
	return nil
}

// metaStorage is PD's key-value store of resource control, always empty.
type metaStorage struct {
	meta_storagepb.UnimplementedMetaStorageServer
	calls     *calls.Log
	clusterID uint64
}

func (m *metaStorage) Get(context.Context, *meta_storagepb.GetRequest) (*meta_storagepb.GetResponse, error) {
	m.calls.Add("meta storage Get")
	return &meta_storagepb.GetResponse{Header: &meta_storagepb.ResponseHeader{ClusterId: m.clusterID, Revision: 1}}, nil
}

func (m *metaStorage) Watch(_ *meta_storagepb.WatchRequest, stream meta_storagepb.MetaStorage_WatchServer) error {
	m.calls.Add("meta storage Watch")
	<-stream.Context().Done()
	return nil
}

// resourceManager has one resource group without limits.
type resourceManager struct {
	rm.UnimplementedResourceManagerServer
	calls *calls.Log
}

func unlimited() *rm.TokenLimitSettings {
	return &rm.TokenLimitSettings{FillRate: math.MaxInt32, BurstLimit: -1}
}

func defaultGroup() *rm.ResourceGroup {
	return &rm.ResourceGroup{
		Name: "default", Mode: rm.GroupMode_RUMode, Priority: 8,
		RUSettings: &rm.GroupRequestUnitSettings{RU: &rm.TokenBucket{Settings: unlimited()}},
	}
}

func (r *resourceManager) ListResourceGroups(
	context.Context, *rm.ListResourceGroupsRequest,
) (*rm.ListResourceGroupsResponse, error) {
	r.calls.Add("resource manager ListResourceGroups")
	return &rm.ListResourceGroupsResponse{Groups: []*rm.ResourceGroup{defaultGroup()}}, nil
}

func (r *resourceManager) GetResourceGroup(context.Context, *rm.GetResourceGroupRequest) (*rm.GetResourceGroupResponse, error) {
	r.calls.Add("resource manager GetResourceGroup")
	return &rm.GetResourceGroupResponse{Group: defaultGroup()}, nil
}

func (r *resourceManager) AddResourceGroup(context.Context, *rm.PutResourceGroupRequest) (*rm.PutResourceGroupResponse, error) {
	r.calls.Add("resource manager AddResourceGroup")
	return &rm.PutResourceGroupResponse{Body: "Success!"}, nil
}

func (r *resourceManager) ModifyResourceGroup(context.Context, *rm.PutResourceGroupRequest) (*rm.PutResourceGroupResponse, error) {
	r.calls.Add("resource manager ModifyResourceGroup")
	return &rm.PutResourceGroupResponse{Body: "Success!"}, nil
}

func (r *resourceManager) AcquireTokenBuckets(stream rm.ResourceManager_AcquireTokenBucketsServer) error {
	r.calls.Add("resource manager AcquireTokenBuckets")
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client left
		}
		answer := &rm.TokenBucketsResponse{}
		for _, asked := range req.Requests {
			answer.Responses = append(answer.Responses, &rm.TokenBucketResponse{
				ResourceGroupName: asked.ResourceGroupName,
				GrantedRUTokens: []*rm.GrantedRUTokenBucket{{
					Type: rm.RequestUnitType_RU, GrantedTokens: &rm.TokenBucket{Tokens: 1e9, Settings: unlimited()},
				}},
			})
		}
		if err := stream.Send(answer); err != nil {
			return nil //nolint:nilerr // the client left
		}
	}
}
