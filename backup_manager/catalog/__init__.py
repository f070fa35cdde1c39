"""Records beside the data: who owns a path, who reads it, and the audit log."""
