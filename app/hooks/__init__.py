"""HTTP in, HTTP out: one short module a kind, no decisions."""
