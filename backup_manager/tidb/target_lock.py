"""One restore at a time into a TiDB cluster: the check that the target is empty and the load are one critical section.

The lock lives in the target itself, so that Restores of other namespaces, other Kubernetes clusters and of no Kubernetes meet
in it (docs/adr/0002-restore-target.md):

===================================== ===================================== ========================================
place                                 taken by                              keeps apart
===================================== ===================================== ========================================
row :data:`ROW` of ``mysql.tidb``     who has SQL access (``spec.to``):     imports, and restores by br that name
                                      imports always, br where it is named  ``spec.to``
key :data:`KEY` of PD's etcd          who can reach PD: br always, imports  restores by br, and imports that reach PD
                                      where its address is known
Lease of the address, own namespace   who may not write the row             the Restores of this namespace that name the
                                                                            target by the same address
===================================== ===================================== ========================================

They are taken in this order: PD's key, then the row. A place that cannot be used is named in the log, with what is then not
kept apart. Waiting, renewing and taking over: :mod:`backup_manager.locking.lock`.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from backup_manager.context import Context
from backup_manager.errors import ManagerError
from backup_manager.locking import lock as locks
from backup_manager.locking.lease import LeasePlace
from backup_manager.locking.lock import Entry, Lock, LockLostError, Note, Pace, Place
from backup_manager.storage.preflight import Check, Status
from backup_manager.tidb.cluster import PD_PORT, Cluster
from backup_manager.tidb.connection import Database, DatabaseError, LoginError
from backup_manager.tidb.pd import Pd
from crds.contract import names
from crds.contract.report import Problem
from crds.contract.wire import Document, WireError

ROW: Final = "tidb_backup_restore_target"
"""``variable_name`` of the row in ``mysql.tidb``."""
KEY: Final = "/tidb-backup/restore-target"
"""The key in PD's etcd."""
GRANT: Final = "grant select, insert, update, delete on mysql.tidb to"
_BEGIN: Final = "begin pessimistic"
"""Whatever ``tidb_txn_mode`` is: the row is locked by reading it, there or not."""
_SELECT: Final = "select variable_value, comment from mysql.tidb where variable_name = %s for update"
_LOOK: Final = "select variable_value, comment from mysql.tidb where variable_name = %s"
_WRITE: Final = "replace into mysql.tidb (variable_name, variable_value, comment) values (%s, %s, %s)"
_FREE: Final = "delete from mysql.tidb where variable_name = %s"
_PD_OF: Final = "select instance from information_schema.cluster_info where type = 'pd' order by instance"
APART_WITHOUT_PD: Final = "a restore by br and an import into this cluster are kept apart only if both name its TiDB in spec.to"
_TIDB_HOST: Final = re.compile(r"^(?P<cluster>[a-z0-9][-a-z0-9]*)-tidb(?P<rest>\.[-a-z0-9.]+)$")


class TargetLockLostError(LockLostError):
    """The lock of the target was lost during the load, which was stopped."""

    reason = "TargetLockLost"


class _Written(Document, frozen=True, kw_only=True):
    """What the row's comment and PD's key hold: a note, and a *token* that no two writes share."""

    token: str
    holder: str = ""
    owner: str = ""
    owner_uid: str = ""
    seconds: float = 0.0
    transitions: int = 0

    @classmethod
    def of(cls, note: Note) -> Self:
        return cls(token=secrets.token_hex(8), **{field: getattr(note, field) for field in Note.__slots__})

    @classmethod
    def note(cls, text: str | bytes) -> Note:
        """The note in *text*. One that cannot be read (of a newer version) belongs to somebody, who is not known."""
        try:
            said = cls.read(text)
        except WireError:
            return Note(holder="unknown", owner="a run of another version")
        return Note(**{field: getattr(said, field) for field in Note.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlace:
    """The lock that is a row of ``mysql.tidb``; its version is the row's text."""

    database: Database

    @property
    def shown(self) -> str:
        """For messages."""
        return f"row {ROW} of mysql.tidb at {self.database.access.host}:{self.database.access.port}"

    def look(self) -> Entry | None:
        """The row."""
        with self.database.session() as cursor:
            cursor.execute(_LOOK, (ROW,))
            return _row(cursor.fetchone())

    def write(self, note: Note, version: str | None) -> Entry | None:
        """Replace it in a transaction that has read it and so locked it."""
        with self.database.session() as cursor:
            cursor.execute(_BEGIN)
            cursor.execute(_SELECT, (ROW,))
            there = _row(cursor.fetchone())
            if (there.version if there else None) != version:
                return None
            text = _Written.of(note).to_line()
            if note.holder:
                cursor.execute(_WRITE, (ROW, note.holder, text))
            else:
                cursor.execute(_FREE, (ROW,))
            return Entry(version=text, note=note)

    def try_rights(self) -> None:
        """Do what a lock does and roll it back. Raises DatabaseError where the account may not."""
        with self.database.session() as cursor:
            cursor.execute(_BEGIN)
            cursor.execute(_SELECT, (f"{ROW}_probe",))
            cursor.fetchone()
            cursor.execute(_WRITE, (f"{ROW}_probe", "", ""))
            cursor.execute(_FREE, (f"{ROW}_probe",))
            cursor.execute("rollback")


def _row(found: Any) -> Entry | None:
    if not found:
        return None
    text = str(found[1] or "")
    return Entry(version=text, note=_Written.note(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class PdPlace:
    """The lock that is a key of PD's etcd; its version is the key's revision."""

    pd: Pd

    @property
    def shown(self) -> str:
        """For messages."""
        return f"key {KEY} of PD at {', '.join(self.pd.urls)}"

    def look(self) -> Entry | None:
        """The key."""
        found = self.pd.value(KEY)
        return Entry(version=str(found[1]), note=_Written.note(found[0])) if found else None

    def write(self, note: Note, version: str | None) -> Entry | None:
        """Swap it in one transaction of etcd."""
        value = _Written.of(note).to_line().encode() if note.holder else None
        revision = self.pd.swap(KEY, value, int(version or 0))
        return Entry(version=str(revision), note=note) if revision else None


@contextmanager
def held(context: Context, *, database: Database | None, pd: Cluster | None, pace: Pace | None = None) -> Iterator[None]:
    """Hold the target while the body runs; wait for it first, reporting ``Waiting: TargetInUse`` and the holder.

    *database* is the target's TiDB, *pd* its PD, each None when it is not known. Raises TargetLockLostError when the lock was
    lost meanwhile: the run is then asked to stop, well before anybody else may begin.
    """
    places: list[Place] = []
    if pd is not None and (key := _key(context, pd)):
        places.append(key)
    if database is not None and (row := _row_or_lease(context, database)):
        places.append(row)
    if not places:
        context.log("nothing keeps other restores away from this target: neither its TiDB nor its PD holds a lock for this run")
    with ExitStack() as stack:
        for place in places:
            ended = locks.pod_has_ended(context)
            lock = Lock(place=place, we=locks.identity(context), pace=pace or Pace(), ended=ended)
            stack.enter_context(locks.holding(context, lock, waiting=partial(_waiting, place), lost=_lost))
        yield


def checks(context: Context, *, database: Database | None, pd: Cluster | None) -> list[Check]:
    """Whether a restore would get its locks, for ``backup-manager check``: what is not kept apart, and who holds them now."""
    found = []
    if database is not None:
        row = RowPlace(database=database)
        try:
            row.try_rights()
            found.append(_free("target", row))
        except ManagerError as error:
            found.append(_missing("target", error, without_row(context, database)))
    if pd is not None:
        try:
            found.append(_free("target PD", PdPlace(pd=Pd(pd))))
        except ManagerError as error:
            found.append(_missing("target PD", error, APART_WITHOUT_PD))
    return found


def _free(name: str, place: Place) -> Check:
    entry = place.look()
    if entry and entry.note.holder:
        text = f"{entry.note.owner or 'an unknown run'} restores into it, or did so when it died; a Restore would wait"
        return Check(name=name, status=Status.WARNING, message=text, hint=f"The holder is noted in {place.shown}.")
    return Check(name=name, status=Status.OK, message=f"{place.shown} keeps other restores away")


def _missing(name: str, error: ManagerError, apart: str) -> Check:
    return Check(name=name, status=Status.WARNING, message=f"no lock: {error.message}", hint=apart)


def pd_of(context: Context, database: Database) -> Cluster | None:
    """Where the PD of an import's target is: by annotation, as TiDB says, or as TiDB Operator names its services; else None."""
    tls = bool(context.flags.get("cluster-tls"))
    if told := context.resource.annotations.get(names.PD_ADDR_ANNOTATION):
        return Cluster(pd=told, tls=tls)
    try:
        instances = [str(row[0]) for row in database.rows(_PD_OF)]
    except ManagerError as error:
        context.log(f"the target's TiDB does not say where PD is: {error.message}")
        instances = []
    if instances:
        return Cluster(pd=",".join(instances), tls=tls)
    if found := _TIDB_HOST.match(database.access.host):
        return Cluster(pd=f"{found['cluster']}-pd{found['rest']}:{PD_PORT}", tls=tls)
    return None


def _key(context: Context, cluster: Cluster) -> Place | None:
    place = PdPlace(pd=Pd(cluster))
    try:
        place.look()
    except ManagerError as error:
        context.log(f"no lock in PD: {error.message}; {APART_WITHOUT_PD}")
        return None
    return place


def _row_or_lease(context: Context, database: Database) -> Place | None:
    row = RowPlace(database=database)
    try:
        row.try_rights()
    except LoginError:
        raise
    except DatabaseError as error:
        context.log(f"no lock in the target: {error.message}; {without_row(context, database)}")
        return _lease(context, database)
    return row


def without_row(context: Context, database: Database) -> str:
    """What is kept apart when the account may not write the row, and the statement that gives it the right."""
    user = database.access.user
    apart = f"only Restores of namespace {context.resource.namespace} that name this target by the same address are kept apart"
    if context.kubernetes is None:
        apart = "other restores into this target are not kept away"
    return f"{apart}; allow it: {GRANT} '{user}'"


def _lease(context: Context, database: Database) -> Place | None:
    if context.kubernetes is None:
        return None
    address = f"{database.access.host.lower()}:{database.access.port}"
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return LeasePlace(api=context.kubernetes, namespace=context.resource.namespace, name=f"tidb-restore-target.{digest}")


def _waiting(place: Place, holder: Note) -> Problem:
    who = holder.owner or "an unknown run"
    return Problem(
        reason="TargetInUse",
        message=f"waiting for {who}, which restores into the same target",
        hint=f"It starts by itself. The holder is noted in {place.shown}.",
        retryable=True,
    )


def _lost(why: str) -> TargetLockLostError:
    return TargetLockLostError(
        f"the lock of the target was lost, so the tool was stopped: {why}",
        hint="Part of the data may be there. It is repeated only if backoffRetryPolicy has a retry left; an import wants "
        "empty tables.",
    )
