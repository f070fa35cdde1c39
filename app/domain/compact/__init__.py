"""CompactBackup: its run over the shards."""
