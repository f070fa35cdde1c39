"""Records beside the data: who owns a path, who reads it, what it holds, and the audit log."""
