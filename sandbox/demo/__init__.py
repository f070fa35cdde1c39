"""``make demo``: a backup and a restore on real parts."""
