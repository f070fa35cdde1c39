"""Every name that must be the same in two rooms: Jobs, labels, annotations, environment, mount paths.

Names and labels are TiDB Operator 1.6's, so that scripts and dashboards keep working, except that a name which Kubernetes
would refuse is shortened with a digest instead of failing.
"""

import hashlib
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

GROUP: Final = "pingcap.com"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

LABEL_LIMIT: Final = 63
"""A label value, and a Job's name too, since its Pods carry it as a label."""
_DIGEST: Final = 8
_SLOT_LAYOUT: Final = "%Y-%m-%dt%H-%M-%S"
_SLOT_LENGTH: Final = len("-2006-01-02t15-04-05")
_JOB_ROOM: Final = len("backup-") + len("-r99")

REPORT_ANNOTATION: Final = "tidb.pingcap.com/report"
SLOT_ANNOTATION: Final = "tidb.pingcap.com/scheduled-time"
"""On a Backup made by a schedule: its cron slot, RFC3339 UTC."""
CONFIRM_CLEAN_ANNOTATION: Final = "tidb.pingcap.com/confirm-clean-of"
"""On a Backup: the uid of another one whose data its clean may delete, because its path was handed over by hand."""
SKIP_PREFLIGHT_ANNOTATION: Final = "tidb.pingcap.com/skip-preflight"
"""On a Backup: ``true`` lets a run begin without trying first whether it has the rights that it will need."""
SPEC_HASH_ANNOTATION: Final = "tidb.pingcap.com/spec-hash"
PATH_ANNOTATION: Final = "tidb.pingcap.com/backup-path"
"""On a Job: where its data goes, decided before the Job exists."""

IMPORTED_ANNOTATION: Final = "tidb.pingcap.com/imported"
"""On a Backup rebuilt from its record: what the record says of the data, as JSON. Such a Backup is complete and never run."""
LIGHTNING_BACKEND_ANNOTATION: Final = "tidb.pingcap.com/lightning-backend"
"""On a Restore made from an export: ``tidb`` (the default) or ``local``, which also needs :data:`PD_ADDR_ANNOTATION`."""
PD_ADDR_ANNOTATION: Final = "tidb.pingcap.com/pd-addr"
"""On what br works on, or an import with backend ``local``: where PD is (``host:port``) of a cluster outside of Kubernetes."""
ALLOW_NON_EMPTY_ANNOTATION: Final = "tidb.pingcap.com/allow-non-empty-target"
"""On a Restore: ``true`` lets an import write into tables that hold rows."""

CONTROLLER_UID_LABEL: Final = "controller-uid"
NAME_LABEL: Final = "app.kubernetes.io/name"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
BACKUP_LABEL: Final = "tidb.pingcap.com/backup"
RESTORE_LABEL: Final = "tidb.pingcap.com/restore"
COMPACT_LABEL: Final = "tidb.pingcap.com/compact"
SCHEDULE_LABEL: Final = "tidb.pingcap.com/backup-schedule"
SCHEDULE_GROUP_LABEL: Final = "tidb.pingcap.com/backup-schedule-group"
REPLICATION_STEP_LABEL: Final = "tidb.pingcap.com/replication-step"
RESTORE_UID_LABEL: Final = "tidb.pingcap.com/restore-uid"
OWNER_UID_LABEL: Final = "tidb.pingcap.com/cr-uid"
"""On Jobs and Pods: uid of the CR they work for; it survives an orphaned owner reference."""

OWNER_LABELS: Final = {BACKUP_LABEL: "Backup", RESTORE_LABEL: "Restore", COMPACT_LABEL: "CompactBackup"}
"""Kind of the CR that a Job's label names."""

SERVICE_ACCOUNT: Final = "tidb-backup-manager"
REPORT_GROUP: Final = "tidb.pingcap.com"
"""API group of a resource without objects: who may ``report`` on ``jobreports`` is held by the admission policy to the report
of the own Job; who may ``manage`` them is not."""
NAMESPACE_LABEL: Final = "tidb.pingcap.com/backup"
"""On a Namespace: ``enabled`` brings the account that Jobs run as, with its rights."""

# Environment of a manager's container, set by the builders through the downward API or as literals.
ENV_JOB_NAME: Final = "JOB_NAME"
ENV_JOB_UID_LABEL: Final = "batch.kubernetes.io/controller-uid"
ENV_JOB_UID: Final = "JOB_UID"
ENV_POD_NAME: Final = "POD_NAME"
ENV_POD_UID: Final = "POD_UID"
ENV_POD_NAMESPACE: Final = "POD_NAMESPACE"
ENV_CR_UID: Final = "CR_UID"
ENV_BACKUP_PATH: Final = "BACKUP_PATH"
"""Where a run writes, what a log command works on, or what a clean deletes: a URL as in ``status.backupPath``."""
ENV_RECORDED: Final = "RECORDED_SPEC"
"""What the CR recorded at its start (:mod:`crds.contract.identity`), as JSON. The manager works on it, not on a later spec."""
ENV_PASSWORD: Final = "BACKUP_MANAGER_PASSWORD"  # noqa: S105  (the name of a variable)
ENV_FULL_BACKUP: Final = "FULL_BACKUP_"
"""Before the names of storage variables: they are those of ``pitrFullBackupStorageProvider``."""

ENV_GRACE: Final = "POD_GRACE_SECONDS"
"""The Pod's ``terminationGracePeriodSeconds``: a manager divides it among the parts of its end."""
GRACE_SECONDS: Final = 60
"""Time between SIGTERM and SIGKILL: to stop the tool, to restore the GC life time, to report."""

BR_BIN_DIR: Final = "/var/lib/br-bin"
DUMPLING_BIN_DIR: Final = "/var/lib/dumpling-bin"
LIGHTNING_BIN_DIR: Final = "/var/lib/lightning-bin"
KVCTL_BIN_DIR: Final = "/var/lib/kvctl-bin"
CLUSTER_TLS_DIR: Final = "/var/lib/cluster-client-tls"
CLIENT_TLS_DIR: Final = "/var/lib/tidb-client-tls"


class Component(StrEnum):
    """Value of :data:`COMPONENT_LABEL`."""

    BACKUP = "backup"
    CLEAN = "clean"
    RESTORE = "restore"
    COMPACT = "compactbackup"


def fit(name: str, limit: int = LABEL_LIMIT) -> str:
    """*name* when it has at most *limit* characters, else its start and a digest of the whole.

    >>> fit("backup-basic")
    'backup-basic'
    >>> len(fit("backup-" + "x" * 100)), fit("backup-" + "x" * 100) != fit("backup-" + "x" * 101)
    (63, True)
    """
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{name[: limit - _DIGEST - 1].rstrip('-.')}-{digest}"


def retry(first: str, attempt: int) -> str:
    """Name of the Job that repeats *first* for the *attempt*-th time (0 is the first run itself).

    >>> retry("backup-basic", 0), retry("backup-basic", 2)
    ('backup-basic', 'backup-basic-r2')
    """
    if attempt == 0:
        return fit(first)
    suffix = f"-r{attempt}"
    return fit(first, LABEL_LIMIT - len(suffix)) + suffix


_SHARDS: Final = "-shards"
_SHARD: Final = re.compile(rf"{_SHARDS}-[0-9]+$")
_SHARDS_LIMIT: Final = 47
"""Kubernetes cuts what stands before the 5 random characters of a Pod's name to 58: room for an index of 9 digits is left."""


def _job(name: str) -> str:
    """*name* as that of a Job with Pods of its own kind: those of Job ``x-shards`` are called like those of a Job
    ``x-shards-0`` would be, so no other Job may have such a name.

    >>> _job("backup-x"), _job("backup-x-shards-0")
    ('backup-x', 'backup-x-shards-0-0bd27321')
    """
    return fit(f"{name}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}" if _SHARD.search(name) else name)


def compact_job(compact: str, *, sharded: bool = False) -> str:
    """Job of a CompactBackup. A sharded one has a Pod ``<job>-<index>-<random>`` for each shard; that its Job is called as no
    other kind of Job is tells whose a Pod is.

    >>> compact_job("nightly"), compact_job("nightly", sharded=True)
    ('nightly', 'nightly-shards')
    """
    return fit(compact, _SHARDS_LIMIT - len(_SHARDS)) + _SHARDS if sharded else _job(compact)


def backup_job(backup: str) -> str:
    """Job of a snapshot or export Backup."""
    return _job(f"backup-{backup}")


def log_job(backup: str, command: str) -> str:
    """Job of a log backup's *command* (``log-start``, ``log-stop``, ...)."""
    return fit(f"backup-{backup}-{command}")


def stop_job(backup: str) -> str:
    """Job that ends a log backup when its CR is deleted."""
    return _job(f"stop-{backup}")


def clean_job(backup: str) -> str:
    """Job that deletes a Backup's data."""
    return _job(f"clean-{backup}")


def restore_job(restore: str) -> str:
    """Job of a Restore."""
    return _job(f"restore-{restore}")


def prune_job(restore: str) -> str:
    """Job that removes what a failed Restore left behind."""
    return fit(f"restore-{restore}-prune")


_LOG_COMMANDS: Final = ("log-start", "log-stop", "log-pause", "log-resume", "log-truncate", "log-watch")
_RETRY: Final = re.compile(r"-r[1-9][0-9]*$")


def possible_owners(job: str) -> list[tuple[str, str]]:
    """Kind and name of every CR that may call one of its Jobs *job*, first runs before later ones.

    The names are TiDB Operator's, which do not keep two CRs apart in every case.

    >>> possible_owners("backup-x-r1")
    [('Backup', 'x-r1'), ('CompactBackup', 'backup-x-r1'), ('Backup', 'x')]
    """
    found: dict[tuple[str, str], None] = {}
    for name in dict.fromkeys((job, _RETRY.sub("", job))):
        for prefix, kind in (("backup-", "Backup"), ("clean-", "Backup"), ("stop-", "Backup"), ("restore-", "Restore")):
            if rest := name.removeprefix(prefix) if name.startswith(prefix) else "":
                found.setdefault((kind, rest))
                suffixes = {"backup-": _LOG_COMMANDS, "restore-": ("prune",)}.get(prefix, ())
                for suffix in suffixes:
                    if rest.endswith(f"-{suffix}"):
                        found.setdefault((kind, rest.removesuffix(f"-{suffix}")))
        for suffix in ("-snapshot-restore", "-log-restore"):
            if name.endswith(suffix):
                found.setdefault(("Restore", name.removesuffix(suffix)))
        for kind in ("Backup", "Restore"):
            prefix = gc_life_time_job(kind, "")
            if name.startswith(prefix) and name != prefix:
                found.setdefault((kind, name.removeprefix(prefix)))
        if name == job:
            found.setdefault(("CompactBackup", name))
            if name.endswith(_SHARDS) and name != _SHARDS:
                found.setdefault(("CompactBackup", name.removesuffix(_SHARDS)))
    return list(found)


def gc_life_time_job(kind: str, name: str) -> str:
    """Job that restores the GC life time which a killed run of a CR left raised.

    >>> gc_life_time_job("Backup", "nightly")
    'gc-life-time-backup-nightly'
    """
    return _job(f"gc-life-time-{kind.lower()}-{name}")


def cluster_lease(namespace: str, cluster: str) -> str:
    """Lease that keeps BR tasks on one TiDB cluster apart. A namespace has no dot, so two clusters never share a name.

    >>> cluster_lease("tidb", "basic")
    'tidb-br.tidb.basic'
    """
    return fit(f"tidb-br.{namespace}.{cluster}", 253)


def slot_backup(schedule: str, slot: datetime) -> str:
    """Name of the Backup that *schedule* makes for the cron *slot* (aware; written in UTC).

    As TiDB Operator 1.6 names it, except that the time is the slot's and not that of the pass that made it, so a repeated
    pass yields the same name. Short enough that every Job derived from it fits.

    >>> slot_backup("nightly", datetime(2026, 1, 31, 2, 0, tzinfo=UTC))
    'nightly-2026-01-31t02-00-00'
    >>> len("backup-" + slot_backup("x" * 200, datetime(2026, 1, 31, tzinfo=UTC)) + "-r99")
    63
    """
    room = LABEL_LIMIT - _JOB_ROOM - _SLOT_LENGTH
    return f"{fit(schedule, room)}-{slot.astimezone(UTC).strftime(_SLOT_LAYOUT)}"


def slot_prefixes(schedule: str) -> tuple[str, ...]:
    """How the names of the Backups of *schedule* begin: ours, and TiDB Operator's where it differs.

    >>> slot_prefixes("nightly")
    ('nightly-',)
    """
    room = LABEL_LIMIT - _JOB_ROOM - _SLOT_LENGTH
    return tuple(dict.fromkeys((f"{fit(schedule, room)}-", f"{schedule}-")))


def slot_text(slot: datetime) -> str:
    """How the name of a scheduled Backup ends.

    >>> slot_text(datetime(2026, 1, 31, 2, 0, tzinfo=UTC))
    '2026-01-31t02-00-00'
    """
    return slot.astimezone(UTC).strftime(_SLOT_LAYOUT)


def slot_time(backup: str) -> datetime | None:
    """The slot in the name of a scheduled Backup, or None when it carries none.

    >>> slot_time("nightly-2026-01-31t02-00-00")
    datetime.datetime(2026, 1, 31, 2, 0, tzinfo=datetime.timezone.utc)
    >>> slot_time("by-hand") is None
    True
    """
    try:
        return datetime.strptime(backup[-(_SLOT_LENGTH - 1) :], _SLOT_LAYOUT).replace(tzinfo=UTC)
    except ValueError:
        return None
