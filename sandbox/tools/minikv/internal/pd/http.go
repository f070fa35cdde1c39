package pd

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"strings"
	"time"
)

const apiPrefix = "/pd/api/v1/"

// object is a JSON object of PD's API.
type object = map[string]any

// serveHTTP answers what tidb-server and br ask, and 404 with the path otherwise.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, apiPrefix)
	name := "pd-http " + r.Method + " " + path
	s.calls.Add(name)
	_, _ = io.Copy(io.Discard, r.Body)
	var answer any
	known := false
	if r.Method == http.MethodGet {
		answer, known = s.read(path)
	} else {
		answer, known = "OK", accepted(r.Method, path)
	}
	if !known {
		log.Printf("unsupported %s", name)
		s.calls.Add("unsupported " + name)
		http.Error(w, "minikv: no "+name, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// accepted are the changes that are answered OK and forgotten: there are no schedulers, rules or replicas to change.
func accepted(method, path string) bool {
	switch method + " " + path {
	case "POST config", "POST config/rule_group", "PATCH config/region-label/rules", "POST admin/reset-ts":
		return true
	}
	return method == http.MethodPost && strings.HasPrefix(path, "schedulers/")
}

func (s *Server) read(path string) (answer any, known bool) {
	switch path {
	case "version":
		return object{"version": "v" + s.version}, true
	case "status":
		return object{"version": "v" + s.version, "build_ts": "", "git_hash": "", "start_timestamp": time.Now().Unix()}, true
	case "config/cluster-version":
		return s.version, true
	case "stores":
		return s.stores(), true
	case "members":
		return object{"members": []any{s.member()}, "leader": s.member(), "etcd_leader": s.member()}, true
	case "leader":
		return s.member(), true
	case "cluster":
		return object{"id": s.clusterID, "max_peer_count": 1}, true
	case "cluster/status":
		return object{"raft_bootstrap_time": "2024-01-01T00:00:00Z", "is_initialized": true, "replication_status": ""}, true
	case "schedulers", "config/rules", "config/region-label/rules", "config/placement-rule", "config/rules/group/pd":
		return []any{}, true
	case "config", "config/schedule":
		return schedule(), true
	case "config/replicate":
		return replication(), true
	case "config/rule/pd/default":
		return object{"group_id": "pd", "id": "default", "start_key": "", "end_key": "", "role": "voter", "count": 1}, true
	case "regions":
		return object{"count": 0, "regions": []any{}}, true
	case "stats/region":
		return object{
			"count": 1, "empty_count": 0, "storage_size": 1, "storage_keys": 1, "store_leader_count": object{}, "store_peer_count": object{},
		}, true
	case "min-resolved-ts":
		now := lastOf(1)
		return object{
			"min_resolved_ts": uint64(now.Physical)<<18 + uint64(now.Logical), "is_real_time": true, "persist_interval": "1s",
		}, true
	}
	return nil, false
}

func (s *Server) stores() object {
	var list []any
	for _, one := range s.store.Regions.GetAllStores() {
		list = append(list, object{
			"store": object{
				"id": one.Id, "address": one.Address, "status_address": one.StatusAddress, "version": one.Version,
				"state": 0, "state_name": "Up",
			},
			"status": object{"capacity": "1TiB", "available": "900GiB", "used_size": "1GiB", "region_count": 1, "leader_count": 1},
		})
	}
	return object{"count": len(list), "stores": list}
}

func schedule() object {
	return object{
		"max-snapshot-count": 64, "max-pending-peer-count": 64, "max-merge-region-size": 54, "max-merge-region-keys": 540000,
		"leader-schedule-limit": 4, "region-schedule-limit": 2048, "enable-location-replacement": "true",
		"replication": replication(),
	}
}

func replication() object {
	return object{"max-replicas": 1, "location-labels": "", "strictly-match-label": "false", "enable-placement-rules": "true"}
}
