"""Backup: its runs, its log commands, its removal, and Backups rebuilt from records."""
