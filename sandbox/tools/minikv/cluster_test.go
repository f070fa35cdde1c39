package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	logbackup "github.com/pingcap/kvproto/pkg/logbackuppb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func connect(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func TestAWholeCluster(t *testing.T) {
	s, err := parse([]string{"-dir", t.TempDir(), "-version", "8.1.2", "-fault-slow-ms", "7"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := start(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)

	t.Run("PD knows the store", func(t *testing.T) {
		got, err := pdpb.NewPDClient(connect(t, c.ready.PD)).GetAllStores(ctx, &pdpb.GetAllStoresRequest{})
		if err != nil || len(got.Stores) != 1 || got.Stores[0].Address != c.ready.Store || got.Stores[0].Version != "8.1.2" {
			t.Errorf("%v %v", got, err)
		}
	})
	t.Run("PD's HTTP API is on the client port", func(t *testing.T) {
		answer, err := http.Get("http://" + c.ready.PD + "/pd/api/v1/version")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var got map[string]string
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || got["version"] != "v8.1.2" {
			t.Errorf("%v %v", got, err)
		}
	})
	t.Run("faults are on the status port", func(t *testing.T) {
		answer, err := http.Get("http://" + c.ready.Status + "/faults")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var got map[string]int
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || got["slow_ms"] != 7 {
			t.Errorf("%v %v", got, err)
		}
	})
	t.Run("what is not there is named", func(t *testing.T) {
		kv := connect(t, c.ready.Store)
		_, unknownService := logbackup.NewLogBackupClient(kv).GetLastFlushTSOfRegion(ctx, &logbackup.GetLastFlushTSOfRegionRequest{})
		_, leftOut := tikvpb.NewTikvClient(kv).GetStoreSafeTS(ctx, &kvrpcpb.StoreSafeTSRequest{})
		_, leftOutHere := tikvpb.NewTikvClient(kv).KvImport(ctx, &kvrpcpb.ImportRequest{})
		stream, err := tikvpb.NewTikvClient(kv).BatchCommands(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&tikvpb.BatchCommandsRequest{RequestIds: []uint64{1}, Requests: []*tikvpb.BatchCommandsRequest_Request{
			{Cmd: &tikvpb.BatchCommandsRequest_Request_RawCoprocessor{RawCoprocessor: &kvrpcpb.RawCoprocessorRequest{}}},
		}}); err != nil {
			t.Fatal(err)
		}
		_, batched := stream.Recv()
		if leftOut != nil { // unistore answers this one
			t.Errorf("safe ts: %v", leftOut)
		}
		for name, err := range map[string]error{
			"GetLastFlushTSOfRegion": unknownService, "KvImport": leftOutHere, "RawCoprocessor": batched,
		} {
			if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestBadCommandLines(t *testing.T) {
	for want, args := range map[string][]string{
		"-dir is required":              nil,
		`unexpected argument "x"`:       {"-dir", "d", "x"},
		"flag provided but not defined": {"-dir", "d", "-nonsense"},
		"nothing may be negative":       {"-dir", t.TempDir(), "-fault-locks", "-1"},
		"invalid port":                  {"-dir", t.TempDir(), "-store-addr", "127.0.0.1:999999"},
		"missing port in address":       {"-dir", t.TempDir(), "-pd-addr", "nonsense"},
	} {
		if err := run(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
