package store

import (
	"context"
	"fmt"
	"log"
	"strings"
	"sync"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Shorthands for the generated names of batched commands.
type (
	request  = tikvpb.BatchCommandsRequest_Request
	response = tikvpb.BatchCommandsResponse_Response
)

// BatchCommands lets unistore serve the stream, except for the commands that it lacks or that this package overrides.
func (s *Store) BatchCommands(stream tikvpb.Tikv_BatchCommandsServer) error {
	wrapped := &batchStream{Tikv_BatchCommandsServer: stream, store: s}
	if err := s.Server.BatchCommands(wrapped); err != nil {
		return err
	}
	return wrapped.refusal()
}

// batchStream stands between the client and unistore and answers some commands itself.
type batchStream struct {
	tikvpb.Tikv_BatchCommandsServer
	store   *Store
	sending sync.Mutex
	mu      sync.Mutex
	refused error
}

func (b *batchStream) refusal() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused
}

// Send serialises answers: unistore's and ours leave from different goroutines.
func (b *batchStream) Send(r *tikvpb.BatchCommandsResponse) error {
	b.sending.Lock()
	defer b.sending.Unlock()
	return b.Tikv_BatchCommandsServer.Send(r)
}

// Recv takes the next batch, starts what is ours and leaves the rest to unistore.
func (b *batchStream) Recv() (*tikvpb.BatchCommandsRequest, error) {
	batch, err := b.Tikv_BatchCommandsServer.Recv()
	if err != nil {
		return batch, err
	}
	rest := &tikvpb.BatchCommandsRequest{}
	for i, r := range batch.Requests {
		id := batch.RequestIds[i]
		handler := b.store.handlerOf(r)
		if handler != nil {
			go b.answer(id, handler)
			continue
		}
		if !knownToUnistore(r) {
			return nil, b.refuse(r)
		}
		rest.Requests, rest.RequestIds = append(rest.Requests, r), append(rest.RequestIds, id)
	}
	return rest, nil
}

// refuse ends the stream with the name of a command that nobody here serves; unistore would answer it with nothing.
func (b *batchStream) refuse(r *request) error {
	name := strings.TrimPrefix(fmt.Sprintf("%T", r.Cmd), "*tikvpb.BatchCommandsRequest_Request_")
	b.store.calls.Add("unsupported batched " + name)
	log.Printf("unsupported batched command %s", name)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = status.Errorf(codes.Unimplemented, "minikv: batched command %s is not implemented", name)
	return b.refused
}

func (b *batchStream) answer(id uint64, handler func(context.Context) (*response, error)) {
	answer, err := handler(b.Context())
	if err != nil {
		log.Printf("batched command: %v", err)
		return
	}
	_ = b.Send(&tikvpb.BatchCommandsResponse{Responses: []*response{answer}, RequestIds: []uint64{id}})
}

// handlerOf is what this package does for the command itself, or nil.
func (s *Store) handlerOf(r *request) func(context.Context) (*response, error) {
	switch c := r.Cmd.(type) {
	case *tikvpb.BatchCommandsRequest_Request_Coprocessor:
		return func(ctx context.Context) (*response, error) {
			answer, err := s.Coprocessor(ctx, c.Coprocessor)
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Coprocessor{Coprocessor: answer}}, err
		}
	case *tikvpb.BatchCommandsRequest_Request_CheckSecondaryLocks:
		return func(ctx context.Context) (*response, error) {
			answer, err := s.KvCheckSecondaryLocks(ctx, c.CheckSecondaryLocks)
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_CheckSecondaryLocks{CheckSecondaryLocks: answer}}, err
		}
	case *tikvpb.BatchCommandsRequest_Request_Flush:
		return func(ctx context.Context) (*response, error) {
			answer, err := s.KvFlush(ctx, c.Flush)
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_Flush{Flush: answer}}, err
		}
	case *tikvpb.BatchCommandsRequest_Request_BufferBatchGet:
		return func(ctx context.Context) (*response, error) {
			answer, err := s.KvBufferBatchGet(ctx, c.BufferBatchGet)
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_BufferBatchGet{BufferBatchGet: answer}}, err
		}
	case *tikvpb.BatchCommandsRequest_Request_GetHealthFeedback:
		return func(context.Context) (*response, error) {
			answer := &kvrpcpb.GetHealthFeedbackResponse{}
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_GetHealthFeedback{GetHealthFeedback: answer}}, nil
		}
	case *tikvpb.BatchCommandsRequest_Request_BroadcastTxnStatus:
		return func(context.Context) (*response, error) {
			answer := &kvrpcpb.BroadcastTxnStatusResponse{}
			return &response{Cmd: &tikvpb.BatchCommandsResponse_Response_BroadcastTxnStatus{BroadcastTxnStatus: answer}}, nil
		}
	}
	return nil
}

// knownToUnistore tells whether unistore serves the batched command.
func knownToUnistore(r *request) bool {
	switch r.Cmd.(type) {
	case *tikvpb.BatchCommandsRequest_Request_Get, *tikvpb.BatchCommandsRequest_Request_Scan,
		*tikvpb.BatchCommandsRequest_Request_BatchGet, *tikvpb.BatchCommandsRequest_Request_Prewrite,
		*tikvpb.BatchCommandsRequest_Request_Commit, *tikvpb.BatchCommandsRequest_Request_Cleanup,
		*tikvpb.BatchCommandsRequest_Request_PessimisticLock, *tikvpb.BatchCommandsRequest_Request_PessimisticRollback,
		*tikvpb.BatchCommandsRequest_Request_TxnHeartBeat, *tikvpb.BatchCommandsRequest_Request_CheckTxnStatus,
		*tikvpb.BatchCommandsRequest_Request_BatchRollback, *tikvpb.BatchCommandsRequest_Request_ScanLock,
		*tikvpb.BatchCommandsRequest_Request_ResolveLock, *tikvpb.BatchCommandsRequest_Request_GC,
		*tikvpb.BatchCommandsRequest_Request_DeleteRange, *tikvpb.BatchCommandsRequest_Request_Empty:
		return true
	}
	return false
}
