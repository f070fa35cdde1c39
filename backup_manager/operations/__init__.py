"""One module a verb, each a list of named steps."""
