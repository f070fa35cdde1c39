"""Metacontroller and an API server in memory: the hooks run in them without a cluster.

``tidb-backup simulate`` runs a schedule in them, and so do the property tests, which add faults, users and the rest of
Kubernetes. What they do is what Metacontroller 4.17 and Kubernetes 1.36 do, in the same order. Left out are transport, the
selection of parents by label, and the last-applied annotation, which only matters for children that are updated.
"""
