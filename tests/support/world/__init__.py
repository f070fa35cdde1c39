"""A whole cluster in memory around the hooks: Metacontroller and API server as in ``tidb-backup simulate``, the controllers of
Kubernetes, caches that lag, managers, users, and faults between any two writes."""
