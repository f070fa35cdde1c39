"""BackupSchedule: slots, children, retention, the log backup and compaction."""
