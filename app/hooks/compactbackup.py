"""The hooks of CompactBackup."""

from typing import Final

from app.builders.jobs import build
from app.domain.compact.reconcile import decide, related
from app.domain.job.observed import JOB, JobIntent
from app.hooks.resource import Kind

KIND: Final[Kind[JobIntent]] = Kind(path="compactbackup", related=related, decide=decide, build=build, child_kind=JOB)
