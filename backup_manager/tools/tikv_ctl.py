"""``tikv-ctl compact-log-backup``: its command line, and the JSON lines that it writes to stderr.

Numbers in its lines come as numbers or as text, from version to version. A line that is no JSON is only logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from backup_manager.errors import UsageError
from crds.contract import sizes, tso

NAME: Final = "tikv-ctl"
_HEAD: Final = ("--log-level", "INFO", "--log-format", "json", "compact-log-backup")
INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"
"""Kubernetes tells each Pod of an indexed Job its number here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of several Pods that share the work; *index* counts from 0."""

    index: int
    count: int
    cache: str = "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be compacted. *until* is 0 where a shard leaves the end to the tool."""

    since: int
    until: int
    concurrency: int
    name: str = ""
    shard: Shard | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any], env: Mapping[str, str]) -> "Work":
        """From ``spec`` of a CompactBackup; the shard's number from the environment. Raises UsageError."""
        since, until = _time(spec, "startTs"), _time(spec, "endTs")
        shard = _shard(spec, env) if spec.get("mode") == "sharded" else None
        if not until and shard is None:
            raise UsageError("spec.endTs is empty", hint="Say where the stretch ends; only mode sharded may leave it out.")
        if until and until < since:
            raise UsageError("spec.endTs is before spec.startTs", hint="Exchange them.")
        concurrency = _whole(spec.get("concurrency", 4), "spec.concurrency", least=1)
        return cls(since=since, until=until, concurrency=concurrency, name=str(spec.get("name") or ""), shard=shard)

    def argv(self, storage: str) -> list[str]:
        """The arguments, in upstream's order; *storage* is what ``br operator base64ify`` made."""
        head = [*_HEAD, "--storage-base64", storage, "--from", str(self.since), "-N", str(self.concurrency)]
        name, until = ["--name", self.name] if self.name else [], ["--until", str(self.until)] if self.until else []
        if self.shard is None:
            return [*head, *name, *until]
        number = f"{self.shard.index + 1}/{self.shard.count}"
        cache = ["--cal-shift-ts", "--physical-file-cache-capacity", self.shard.cache]
        return [*head, *name, *cache, *until, "--shard", number, "--minimal-compaction-size", "0"]


def _time(spec: Mapping[str, Any], name: str) -> int:
    try:
        return tso.parse(str(spec.get(name) or ""))
    except tso.TimestampError as error:
        raise UsageError(f"spec.{name}: {error}", hint="Write a TSO, or a time like 2006-01-02T15:04:05+08:00.") from None


def _whole(value: Any, name: str, *, least: int) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise UsageError(f"{name} {text[:40]!r} is no whole number from {least} up", hint=f"Correct {name}.")
    return int(text)


def _shard(spec: Mapping[str, Any], env: Mapping[str, str]) -> Shard:
    count = _whole(spec.get("shardCount"), "spec.shardCount", least=1)
    index = _whole(env.get(INDEX_VARIABLE, ""), INDEX_VARIABLE, least=0)
    if index >= count:
        raise UsageError(f"{INDEX_VARIABLE} {index} is not below spec.shardCount {count}", hint="Make a new CompactBackup.")
    cache = str(spec.get("physicalFileCacheCapacity") or "0")
    try:
        below = sizes.parse(cache) < 0
    except sizes.QuantityError as error:
        raise UsageError(f"spec.physicalFileCacheCapacity: {error}", hint="Write a quantity like 150Gi.") from None
    if below:
        raise UsageError(f"spec.physicalFileCacheCapacity {cache!r} is negative", hint="Write a quantity like 150Gi.")
    return Shard(index=index, count=count, cache=cache)


@dataclass(slots=True, kw_only=True)
class CompactionOutput:
    """What tikv-ctl's lines told so far. *end* is the newest TSO in what was compacted, *aborted* why it gave up."""

    read: tuple[int, int] = (0, 0)
    compacted: tuple[int, int] = (0, 0)
    finished: int = 0
    end: int = 0
    aborted: str = ""

    def line(self, line: str) -> bool:
        """Take in one line; True when it told something."""
        if not line.startswith("{"):
            return False
        try:
            told = orjson.loads(line)
        except orjson.JSONDecodeError:
            return False
        match told.get("message"):
            case "Finishing compaction.":
                self.finished += 1
                self.read = _number(told, "meta_completed"), _number(told, "meta_total")
                self.compacted = _number(told, "bytes_compacted"), _number(told, "bytes_to_compact")
            case "Spawning compaction.":
                self.end = max(self.end, _number(told, "input_max_ts"))
            case "Compaction aborted.":
                self.aborted = str(told.get("err") or "no reason given")
            case _:
                return False
        return True

    @property
    def progress(self) -> str:
        """``status.progress``, in upstream's words."""
        return f"[READ_META({self.read[0]}/{self.read[1]}),COMPACT_WORK({self.compacted[0]}/{self.compacted[1]})]"

    @property
    def percent(self) -> float:
        """How much of the bytes known so far is done."""
        done, total = self.compacted
        return min(100.0 * done / total, 99.0) if total else 0.0


def _number(told: Mapping[str, Any], name: str) -> int:
    try:
        return max(0, int(told.get(name) or 0))
    except (TypeError, ValueError):
        return 0
