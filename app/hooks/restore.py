"""The hooks of Restore."""

from typing import Final

from app.builders.jobs import build
from app.domain.job.observed import JOB, JobIntent
from app.domain.restore.reconcile import decide, related
from app.hooks.resource import Kind

KIND: Final[Kind[JobIntent]] = Kind(path="restore", related=related, decide=decide, build=build, child_kind=JOB)
