"""Restore: its run, and what a point in time and log replication need in addition."""
