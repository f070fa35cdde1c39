"""One module a command: read, call, return an answer."""
