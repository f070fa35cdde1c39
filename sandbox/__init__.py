"""A cluster on a laptop from real binaries, for the demo and the end-to-end tests."""
