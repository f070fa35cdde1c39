"""The report of a run, and where it goes."""
