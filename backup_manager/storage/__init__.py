"""Where backups lie: one small interface, one driver a provider, credentials as the Job's environment gives them."""
