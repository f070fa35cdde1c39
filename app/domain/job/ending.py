"""What a deleted CR has to wait for, and what lets it go without waiting; the same for every kind whose Jobs do harm alone."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from app.domain.decision import Drop
from app.domain.job.observed import JOB, Job, observed_jobs
from app.domain.observed import Observed, metadata
from app.domain.times import moment

FORCE_ANNOTATION: Final = "tidb.pingcap.com/force-delete"
"""``"true"`` on a Backup lets it go without its data being deleted, on a Restore without waiting for the end of its Job."""


def forced(observed: Observed) -> bool:
    """Whether the user asked not to wait any more."""
    return (metadata(observed.parent).get("annotations") or {}).get(FORCE_ANNOTATION) == "true"


def namespace_end(observed: Observed) -> datetime | None:
    """When the CR's namespace was deleted; None while it was not. No Job can be made there any more; its Pods go with it."""
    namespace = (observed.related.get("Namespace.v1") or {}).get(observed.namespace)
    return moment(metadata(namespace).get("deletionTimestamp")) if namespace is not None else None


def busy_jobs(observed: Observed, *, but: Callable[[str], bool] = lambda _name: False) -> list[Job]:
    """The CR's own Jobs of which a Pod may still run, without those whose name *but* picks."""
    return [
        job
        for name, job in sorted(observed_jobs(observed).items())
        if job.busy and job.owner_uid == observed.uid and not but(name)
    ]


def stopping(jobs: list[Job], rule: str) -> list[Drop]:
    """The deletion of those of *jobs* that have not ended; the others only wait for their Pods."""
    return [Drop(kind=JOB, name=job.name, rule=rule) for job in jobs if not job.finished]
