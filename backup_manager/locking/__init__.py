"""Locks of a run: how one is taken, renewed and lost; the Lease of a TiDB cluster; Pods that may still write."""
