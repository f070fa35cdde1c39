"""The user's command ``tidb-backup``, also ``kubectl tidb-backup``."""
