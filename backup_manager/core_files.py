"""No process that knows a secret leaves a core file: a copy of its memory holds every password and key."""

import resource


def forbid() -> None:
    """Set the limit of core files to 0, for this process and every tool that it starts. It cannot be raised again without
    the privilege to do so, so no tool and no library undoes it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
