// Command minikv answers as one PD (with its etcd) and one TiKV store, so that the real tidb-server and br work with no
// TiKV at hand. It is a test fixture: one replica, data in memory, no log backup. See docs/minikv.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"sandbox/tools/minikv/internal/faults"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatalf("minikv: %v", err)
	}
}

// settings are the command line.
type settings struct {
	dir                                       string
	pdAddr, pdPeerAddr, storeAddr, statusAddr string
	version                                   string
	logBackup                                 bool
	plan                                      faults.Plan
}

func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("minikv", flag.ContinueOnError)
	flags.StringVar(&s.dir, "dir", "", "empty folder for etcd and the engine (required; what is in it does not survive a restart)")
	flags.StringVar(&s.pdAddr, "pd-addr", "127.0.0.1:0", "PD's client address; port 0 picks a free one")
	flags.StringVar(&s.pdPeerAddr, "pd-peer-addr", "127.0.0.1:0", "PD's peer address")
	flags.StringVar(&s.storeAddr, "store-addr", "127.0.0.1:0", "the store's gRPC address")
	flags.StringVar(&s.statusAddr, "status-addr", "127.0.0.1:0", "the store's status address (/config, and the fixture's own /calls and /faults)")
	flags.StringVar(&s.version, "version", "8.5.0", "version that PD and the store claim")
	flags.BoolVar(&s.logBackup, "log-backup", false, "claim that log backup is enabled: br's log commands work, but no log is written")
	flags.IntVar(&s.plan.SlowMS, "fault-slow-ms", 0, "delay every region of a backup and every download by so many milliseconds")
	flags.IntVar(&s.plan.RegionErrors, "fault-region-errors", 0, "answer so many regions of a backup or ingests with EpochNotMatch")
	flags.IntVar(&s.plan.Locks, "fault-locks", 0, "leave a lock in the way of so many backup scans")
	flags.IntVar(&s.plan.LosePairs, "fault-lose-pairs", 0, "lose the first pair of so many regions of a backup or ingested files")
	flags.Uint64Var(&s.plan.LockTTLMS, "fault-lock-ttl-ms", 1000, "how long such a lock counts as alive")
	if err := flags.Parse(args); err != nil {
		return settings{}, err
	}
	switch {
	case flags.NArg() > 0:
		return settings{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case s.dir == "":
		return settings{}, errors.New("-dir is required: name an empty folder")
	}
	return s, nil
}

// run serves until SIGTERM or SIGINT.
func run(args []string) error {
	s, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cluster, err := start(s)
	if err != nil {
		return err
	}
	defer cluster.stop()
	if err := json.NewEncoder(os.Stdout).Encode(cluster.ready); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-cluster.failed:
		return err
	}
}
