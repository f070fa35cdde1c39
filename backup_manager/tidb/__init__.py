"""TiDB and PD: connections, garbage collection, locks, and the contents of a target."""
