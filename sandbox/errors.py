"""What can go wrong with a sandbox, said to the person who started it."""


class SandboxError(Exception):
    """A part of the sandbox could not do its work; the message says which, why, and the next step."""
