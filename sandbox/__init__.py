"""A cluster on a laptop from real binaries, for the demo and the end-to-end tests.

``python -m sandbox up`` starts it, ``from sandbox import Cluster`` does so from Python. Linux only.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.cluster import Cluster
    from sandbox.errors import SandboxError

__all__ = ["Cluster", "SandboxError"]


def __getattr__(name: str) -> Any:
    # Imported on demand: the agent and the stand-in start as processes of their own and need none of it.
    if name == "Cluster":
        from sandbox.cluster import Cluster  # noqa: PLC0415

        return Cluster
    if name == "SandboxError":
        from sandbox.errors import SandboxError  # noqa: PLC0415

        return SandboxError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
