"""A Job and its attempts: what is observed, when it is repeated, how it ends. Shared by every kind that runs Jobs."""
