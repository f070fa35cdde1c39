"""The tools we drive: argv builders and log parsers (pure), and the one place that runs a process."""
