package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	brpb "github.com/pingcap/kvproto/pkg/brpb"
	"github.com/pingcap/kvproto/pkg/import_sstpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"sandbox/tools/minikv/internal/backup"
	"sandbox/tools/minikv/internal/calls"
	"sandbox/tools/minikv/internal/faults"
	"sandbox/tools/minikv/internal/importer"
	"sandbox/tools/minikv/internal/pd"
	"sandbox/tools/minikv/internal/store"
)

const (
	clusterID     = 7_000_000_000_000_000_001
	etcdPatience  = 30 * time.Second
	largestAnswer = 512 << 20
)

// ready is the one line on stdout that says where everything listens.
type ready struct {
	Ready   bool   `json:"ready"`
	PID     int    `json:"pid"`
	PD      string `json:"pd"`
	Store   string `json:"store"`
	Status  string `json:"status"`
	Version string `json:"version"`
}

// cluster is the running PD and store.
type cluster struct {
	ready  ready
	failed chan error // the first server that ended on its own
	ends   []func()   // what to stop, in the order of the start
}

func (c *cluster) onStop(end func()) { c.ends = append(c.ends, end) }

// stop ends everything, last started first.
func (c *cluster) stop() {
	for i := len(c.ends) - 1; i >= 0; i-- {
		c.ends[i]()
	}
}

// start brings up the store, then PD. When a part fails, what was started is stopped again.
func start(s settings) (*cluster, error) {
	c := &cluster{failed: make(chan error, 2)}
	if err := c.start(s); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *cluster) start(s settings) error {
	box := &faults.Box{}
	if err := box.Set(s.plan); err != nil {
		return err
	}
	counted := &calls.Log{}
	storeListener, err := net.Listen("tcp", s.storeAddr)
	if err != nil {
		return err
	}
	c.onStop(func() { _ = storeListener.Close() })
	statusListener, err := net.Listen("tcp", s.statusAddr)
	if err != nil {
		return err
	}
	c.onStop(func() { _ = statusListener.Close() })
	kv, err := store.Open(store.Options{
		Dir: s.dir, ClusterID: clusterID, Version: s.version,
		Address: storeListener.Addr().String(), StatusAddress: statusListener.Addr().String(),
	}, counted)
	if err != nil {
		return err
	}
	c.onStop(kv.Stop)
	c.serveStore(storeListener, kv, box, counted)
	c.serveStatus(statusListener, s.logBackup, box, counted)
	pdAddr, err := c.servePD(s, kv, counted)
	if err != nil {
		return err
	}
	c.ready = ready{
		Ready: true, PID: os.Getpid(), PD: pdAddr, Store: storeListener.Addr().String(),
		Status: statusListener.Addr().String(), Version: s.version,
	}
	return nil
}

// serveStore starts TiKV's gRPC port.
func (c *cluster) serveStore(listener net.Listener, kv *store.Store, box *faults.Box, counted *calls.Log) {
	server := newStoreServer(kv, box, counted)
	go func() { c.failed <- fmt.Errorf("store: %w", server.Serve(listener)) }()
	c.onStop(server.Stop)
}

// newStoreServer has the three services of a store and a name for everything else that is asked of it.
func newStoreServer(kv *store.Store, box *faults.Box, counted *calls.Log) *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(largestAnswer),
		// br pings often; without this it is sent away with too_many_pings.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			counted.Add("store " + info.FullMethod)
			if pretended(info.FullMethod) {
				return nil, unsupported(info.FullMethod, counted)
			}
			return handle(ctx, req)
		}),
		grpc.StreamInterceptor(func(s any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			counted.Add("store " + info.FullMethod)
			return handle(s, stream)
		}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			return unsupported(method, counted)
		}),
	)
	tikvpb.RegisterTikvServer(server, kv)
	brpb.RegisterBackupServer(server, &backup.Server{Store: kv, Faults: box, Calls: counted})
	import_sstpb.RegisterImportSSTServer(server, &importer.Server{Store: kv, Faults: box, Calls: counted})
	return server
}

// pretended are TiKV's calls that unistore answers with an empty reply, or with a panic.
func pretended(method string) bool {
	name, isTikv := strings.CutPrefix(method, "/tikvpb.Tikv/")
	if !isTikv {
		return false
	}
	switch name {
	case "KvImport", "CheckLeader", "GetLockWaitInfo", "GetLockWaitHistory":
		return true
	}
	return strings.HasPrefix(name, "Raw")
}

func unsupported(method string, counted *calls.Log) error {
	counted.Add("unsupported store " + method)
	log.Printf("unsupported call %s", method)
	return status.Errorf(codes.Unimplemented, "minikv: %s is not implemented", method)
}

// storeConfig is what br reads from TiKV's status port, with the answer to "is log backup enabled". It is off unless asked for,
// because nothing here writes a log: with it on, br's log commands keep their books in PD and the storage, and that is all.
const storeConfig = `{"coprocessor":{"region-split-size":"96MiB","region-split-keys":960000},"import":{"num-threads":8},` +
	`"log-backup":{"enable":%t},"storage":{"api-version":1}}`

// serveStatus starts TiKV's status port with the fixture's own pages on it.
func (c *cluster) serveStatus(listener net.Listener, logBackup bool, box *faults.Box, counted *calls.Log) {
	pages := http.NewServeMux()
	pages.Handle("/calls", counted)
	pages.Handle("/faults", box)
	pages.HandleFunc("/config", func(w http.ResponseWriter, _ *http.Request) {
		counted.Add("store status /config")
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, storeConfig, logBackup)
	})
	server := &http.Server{Handler: pages, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			c.failed <- fmt.Errorf("status: %w", err)
		}
	}()
	c.onStop(func() { _ = server.Close() })
}

// servePD starts an etcd with PD's services and HTTP API on its client port, and waits until it answers.
func (c *cluster) servePD(s settings, kv *store.Store, counted *calls.Log) (string, error) {
	client, err := withPort(s.pdAddr)
	if err != nil {
		return "", err
	}
	peer, err := withPort(s.pdPeerAddr)
	if err != nil {
		return "", err
	}
	service := pd.New(kv, counted, client, clusterID, s.version)
	conf := embed.NewConfig()
	conf.Name, conf.Dir = "pd", filepath.Join(s.dir, "etcd")
	conf.ListenClientUrls = []url.URL{{Scheme: "http", Host: client}}
	conf.AdvertiseClientUrls = conf.ListenClientUrls
	conf.ListenPeerUrls = []url.URL{{Scheme: "http", Host: peer}}
	conf.AdvertisePeerUrls = conf.ListenPeerUrls
	conf.InitialCluster = "pd=http://" + peer
	conf.LogLevel = "warn"
	conf.UnsafeNoFsync = true
	conf.ServiceRegister = service.Register
	conf.UserHandlers = map[string]http.Handler{"/pd/": service.Handler()}
	etcd, err := embed.StartEtcd(conf)
	if err != nil {
		return "", fmt.Errorf("pd: %w", err)
	}
	c.onStop(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
		return client, nil
	case err := <-etcd.Err():
		return "", fmt.Errorf("pd: %w", err)
	case <-time.After(etcdPatience):
		return "", fmt.Errorf("pd: not ready after %s", etcdPatience)
	}
}

// withPort replaces port 0 by a free one: etcd wants to know its port beforehand.
func withPort(address string) (string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
