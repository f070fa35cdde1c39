"""The plain line of br, dumpling or lightning behind a CR: for the day when it has to be done by hand.

The hook says which Job it would make, the manager's own code which line that Job would run. Secrets are blanked; where they
come from is told.
"""

import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from app.builders import scheduled_backup
from app.domain.config import Config
from app.domain.schedule.reconcile import Snapshot
from app.hooks.response import plain
from backup_manager.errors import UsageError
from backup_manager.masking import Masker, secrets_of
from backup_manager.storage import pitr as point_storage
from backup_manager.storage.tool_urls import ToolStorage, for_br, for_dumpling, for_lightning
from backup_manager.tidb.cluster import Cluster
from backup_manager.tidb.connection import Access
from backup_manager.tools import br, dumpling, lightning
from cli.documents import Object, shown
from cli.requests import ask, observe, request, with_clusters
from cli.schedules import load_schedule
from crds.contract import names
from crds.contract.paths import Location, PathError, location_of, provider_of

_STATUS_PORT: Final = 8281
_STAND_IN: Final = "from-the-secret"
_STAND_INS: Final = dict.fromkeys((names.ENV_PASSWORD, "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"), _STAND_IN)
"""The lines are built as a Job would, which has these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """One line: what it does, the words, the variables that it needs, files that it reads; all without secrets."""

    purpose: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For a shell, one flag a line, with the value that follows it."""
        lines: list[str] = []
        for word in self.argv:
            if lines and not word.startswith("-"):
                lines[-1] += f" {shlex.quote(word)}"
            else:
                lines.append(shlex.quote(word))
        return " \\\n  ".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What a Job would be told: its verb and flags, the CR, the environment."""

    verb: str
    flags: Mapping[str, str]
    cr: Object
    env: Mapping[str, str]
    scratch: Path

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.cr.get("spec") or {}
        return found

    @property
    def namespace(self) -> str:
        return str(self.cr["metadata"].get("namespace") or "")

    @property
    def name(self) -> str:
        return str(self.cr["metadata"]["name"])

    @property
    def cluster(self) -> Cluster:
        tls = self.flags.get("cluster-tls") == "true"
        return Cluster.of(self.spec.get("br") or {}, self.namespace, tls=tls, pd_addr=self.flags.get("pd-addr", ""))

    def access(self, field_name: str) -> Access:
        flags = {name: True for name in ("client-tls", "skipClientCA") if self.flags.get(name) == "true"}
        return Access.of(self.spec.get(field_name) or {}, name=field_name, env=self.env, flags=flags)

    @property
    def location(self) -> Location:
        """Where the data is: the recorded place, else the one that the spec says."""
        mount = str(((self.spec.get("local") or {}).get("volumeMount") or {}).get("mountPath") or "")
        told = self.env.get(names.ENV_BACKUP_PATH) or self.flags.get("backupPath", "")
        return Location.parse(told, mount_path=mount) if told else location_of(self.spec)


def explain(cr: Object, objects: Sequence[Object], config: Config, now: datetime, *, version: str) -> list[CommandLine]:
    """The lines that stand for *cr*. Raises UsageError for a spec that cannot work."""
    if cr.get("kind") == "BackupSchedule":
        cr = _next_backup(cr, config, now)
    fresh = {key: value for key, value in cr.items() if key != "status"}
    config, world, _ = with_clusters(config, [fresh, *(item for item in objects if item.get("kind") == "TidbCluster")], version)
    answer = ask(observe(request(fresh, world, config)), now, config)
    jobs = [child for child in answer.body["children"] if "spec" in child]
    if not jobs:
        conditions = answer.body["status"].get("conditions") or [{}]
        raise UsageError(f"{shown(cr)} would start nothing: {conditions[-1].get('message') or 'no reason is told'}")
    container = jobs[0]["spec"]["template"]["spec"]["containers"][0]
    return [_line(answer.observed.parent, container)]


def _next_backup(schedule: Object, config: Config, now: datetime) -> Object:
    """The Backup that the schedule makes next."""
    subject = load_schedule(schedule, [], config, now)
    slot = subject.timetable.following(now)
    intent = Snapshot(name=names.slot_backup(subject.observed.name, slot), slot=slot)
    made: Object = plain(scheduled_backup.build(subject.observed, intent, config))
    return made


def _line(cr: Object, container: Mapping[str, Any]) -> CommandLine:
    verb, *words = [str(word) for word in container["args"]]
    flags = {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in words)}
    entries: Sequence[Mapping[str, Any]] = container.get("env") or ()
    literal = {str(entry["name"]): str(entry["value"]) for entry in entries if entry.get("value")}
    # One value a place: two variables from the same key hold the same. A key has no blanks.
    secrets = {name: f"{_STAND_IN}-{place}".replace(" ", "-") for name, place in _secret_places(entries).items()}
    env = {**_STAND_INS, **secrets, **literal}
    with tempfile.TemporaryDirectory(prefix="tidb-backup-") as scratch:
        task = _Task(verb=verb, flags=flags, cr=cr, env=env, scratch=Path(scratch))
        builder = _BUILDERS.get(verb)
        if builder is None:
            return CommandLine(purpose=f"{verb} is the manager's own work", argv=["backup-manager", verb, *words])
        try:
            line = builder(task)
        except PathError as error:
            raise UsageError(str(error), hint="Correct the storage in the spec.") from None
    needed = {**line.env, **_sources(entries)}
    return _masked(CommandLine(purpose=line.purpose, argv=line.argv, env=needed, files=line.files), task, secrets.values())


def _masked(line: CommandLine, task: _Task, secrets: Iterable[str]) -> CommandLine:
    mask = Masker([*secrets_of(task.env, task.spec), *secrets, _STAND_IN])
    scratch = f"{task.scratch}/"
    return CommandLine(
        purpose=line.purpose,
        argv=mask.argv([word.replace(scratch, "") for word in line.argv]),
        env={name: mask(value.replace(scratch, "")) for name, value in sorted(line.env.items())},
        files={name: mask(text) for name, text in line.files.items()},
    )


def _secret_places(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Variables that a Job takes from Secrets, and where from."""
    found = {}
    for entry in entries:
        if reference := (entry.get("valueFrom") or {}).get("secretKeyRef"):
            optional = ", optional" if reference.get("optional") else ""
            found[str(entry["name"])] = f"Secret {reference['name']}, key {reference['key']}{optional}"
    return found


def _sources(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the tool's own environment needs, with the place instead of the value. br and dumpling read Google's key from a
    file, which the manager writes for them; the base snapshot's variables are the manager's alone."""
    found = {}
    for name, place in _secret_places(entries).items():
        if name == "GCS_SERVICE_ACCOUNT_JSON_KEY":
            found["GOOGLE_APPLICATION_CREDENTIALS"] = f"<a file with the {place}>"
        elif not name.endswith(names.ENV_PASSWORD) and not name.startswith(names.ENV_FULL_BACKUP):
            found[name] = f"<{place}>"
    return found


def _export(task: _Task) -> CommandLine:
    target = for_dumpling(task.spec, task.location, env=task.env, scratch=task.scratch)
    argv = dumpling.argv(
        dumpling.NAME,
        access=task.access("from"),
        output=target.url,
        storage_flags=target.flags,
        rules=dumpling.filters(task.spec),
        words=dumpling.options(task.spec).words,
        status_port=_STATUS_PORT,
    )
    return CommandLine(purpose=f"export to {task.location.url}", argv=argv, env=target.env)


def _import(task: _Task) -> CommandLine:
    location = task.location
    reading = for_lightning(task.spec, location, env=task.env, scratch=task.scratch)
    config = Path("lightning.toml")
    filters = [str(rule) for rule in task.spec.get("tableFilter") or ()]
    text = lightning.toml(lightning.Import(source=reading.url, access=task.access("to"), filters=filters))
    argv = lightning.argv(lightning.NAME, config)
    return CommandLine(purpose=f"import {location.url}", argv=argv, env=reading.env, files={str(config): text})


def _backup(task: _Task) -> CommandLine:
    target = _br_target(task)
    if task.flags.get("mode") != "log":
        argv = br.backup(task.spec, task.cluster, target.br_arguments)
        return CommandLine(purpose=f"snapshot to {task.location.url}", argv=[br.NAME, *argv], env=target.env)
    command = br.LogCommand(task.flags.get("subcommand") or br.LogCommand.START)
    start, until = task.flags.get("commit-ts", ""), task.flags.get("truncate-until", "")
    argv = br.log(command, task.name, task.spec, task.cluster, target.br_arguments, start_ts=start, until=until)
    return CommandLine(purpose=f"log backup, {command.value}", argv=[br.NAME, *argv], env=target.env)


def _restore(task: _Task) -> CommandLine:
    target = _br_target(task)
    if task.flags.get("mode") != "pitr":
        argv = br.restore(task.spec, task.cluster, target.br_arguments)
        return CommandLine(purpose=f"restore {task.location.url}", argv=[br.NAME, *argv], env=target.env)
    point = str(task.flags.get("pitrRestoredTs") or task.spec.get("pitrRestoredTs") or "0")
    full, base = "", task.spec.get("pitrFullBackupStorageProvider") or {}
    if provider_of(base):
        told = point_storage.resolve_pitr_storages(
            task.spec, task.location, base, location_of(base), env=task.env, scratch=task.scratch
        )
        target, full = told.log, told.base_url
    argv = br.restore_point(task.spec, task.cluster, target.br_arguments, restored_ts=point, full_backup=full)
    return CommandLine(purpose=f"restore to {point}", argv=[br.NAME, *argv], env=target.env)


def _br_target(task: _Task) -> ToolStorage:
    return for_br(task.spec, task.location, env=task.env, scratch=task.scratch)


_BUILDERS: Final[Mapping[str, Callable[[_Task], CommandLine]]] = {
    "export": _export,
    "import": _import,
    "backup": _backup,
    "restore": _restore,
}
