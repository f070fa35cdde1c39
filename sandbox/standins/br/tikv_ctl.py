#!/usr/bin/env python3
"""A stand-in for ``tikv-ctl compact-log-backup``: its flags, its JSON lines on stderr, its ends; no log of TiKV.

What it compacts are the objects ``v1/stand-in/<ts>.log`` of the log's storage, which a test puts there: those from ``--from``
to ``--until`` that are this shard's. Each becomes ``v1/stand-in/<from>-<until>/<ts>-<shard>.sst`` with the same content. The
storage is found as tikv-ctl finds it: in ``--storage-base64``, with credentials from the environment.

``STAND_IN_FAIL``: ``always`` or ``once`` for each shard, ``always:2/3`` or ``once:2/3`` for one of them; it then says that it
aborted, after the first object, and lingers. ``STAND_IN_SECONDS``: the time each object takes.
"""

import argparse
import base64
import binascii
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

PLACE = "v1/stand-in"
_LOCAL, _S3 = 2, 3
_LINGER = 120.0


class Storage(Protocol):
    """The log backup's folder."""

    def names(self) -> list[str]:
        """Names of objects under :data:`PLACE`."""

    def read(self, name: str) -> bytes:
        """One of them."""

    def write(self, name: str, data: bytes) -> None:
        """Make one."""


class Folder:
    """A folder of a volume."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def names(self) -> list[str]:
        """As promised."""
        return sorted(str(path.relative_to(self._path)) for path in (self._path / PLACE).rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        """As promised."""
        return (self._path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """As promised."""
        (self._path / name).parent.mkdir(parents=True, exist_ok=True)
        (self._path / name).write_bytes(data)


class Bucket:
    """A folder of a bucket."""

    def __init__(self, endpoint: str, region: str, bucket: str, prefix: str) -> None:
        import boto3  # noqa: PLC0415 - not needed for --help and refusals

        self._bucket, self._prefix = bucket, prefix.strip("/")
        self._client: Any = boto3.client("s3", endpoint_url=endpoint or None, region_name=region or None)

    def names(self) -> list[str]:
        """As promised."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/{PLACE}/")
        return sorted(item["Key"].removeprefix(f"{self._prefix}/") for page in pages for item in page.get("Contents", ()))

    def read(self, name: str) -> bytes:
        """As promised."""
        data: bytes = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")["Body"].read()
        return data

    def write(self, name: str, data: bytes) -> None:
        """As promised."""
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=data)


def storage_of(encoded: str) -> Storage:
    """The storage in what ``br operator base64ify`` printed, a ``backup.StorageBackend``. Raises ValueError."""
    for kind, message in _fields(base64.b64decode(encoded, validate=True)):
        told = {number: content.decode() for number, content in _fields(message)}
        if kind == _LOCAL:
            return Folder(told[1])
        if kind == _S3:
            return Bucket(*(told.get(number, "") for number in range(1, 5)))
    raise ValueError("neither a folder nor a bucket of S3")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each byte string; numbers are passed over."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        length, position = _varint(data, position)
        if tag & 7 == 2:
            yield tag >> 3, data[position : position + length]
            position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    end = next(place for place in range(position, len(data)) if data[place] < 0x80) + 1
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[position:end])), end


class Parser(argparse.ArgumentParser):
    """Refuses in the way of tikv-ctl."""

    def error(self, message: str) -> NoReturn:
        """Exit code 1; an unknown flag in the words of clap."""
        flag = message.removeprefix("unrecognized arguments: ").split()[0]
        unknown = f"Found argument '{flag}' which wasn't expected, or isn't valid in this context"
        sys.stderr.write(f"error: {unknown if message.startswith('unrecognized arguments') else message}\n")
        raise SystemExit(1)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; nothing may be abbreviated."""
    parser = Parser(prog="tikv-ctl", allow_abbrev=False)
    parser.add_argument("--log-level", required=True)
    parser.add_argument("--log-format", choices=["json"], required=True)
    compact = parser.add_subparsers(required=True, parser_class=Parser).add_parser("compact-log-backup", allow_abbrev=False)
    compact.add_argument("--storage-base64", required=True)
    compact.add_argument("--from", dest="since", type=int, required=True)
    compact.add_argument("--until", type=int, default=0)
    compact.add_argument("-N", "--concurrency", type=int, default=0)
    compact.add_argument("--name", default="")
    compact.add_argument("--cal-shift-ts", action="store_true")
    compact.add_argument("--physical-file-cache-capacity", default="0")
    compact.add_argument("--shard", default="1/1")
    compact.add_argument("--minimal-compaction-size", type=int)
    given = parser.parse_args([word for word in argv if word != "--help"])
    if "--help" in argv:  # asked for after all others were understood, as clap does it
        parser.print_help()
        raise SystemExit(0)
    return given


def main(argv: Sequence[str]) -> int:
    """Compact; the exit code."""
    given = arguments(argv)
    try:
        storage = storage_of(given.storage_base64)
        index, count = (int(part) for part in given.shard.split("/"))
    except (ValueError, KeyError, StopIteration, binascii.Error) as error:
        return _abort(f"--storage-base64 or --shard: {error}")
    try:
        return compact(storage, given, index, count)
    except Exception as error:  # noqa: BLE001 - whatever the storage says, tikv-ctl says that it aborted
        return _abort(str(error))


def compact(storage: Storage, given: argparse.Namespace, index: int, count: int) -> int:
    """This shard's objects."""
    logs = {int(Path(name).stem): name for name in storage.names() if name.endswith(".log")}
    within = sorted(ts for ts in logs if given.since <= ts and (not given.until or ts <= given.until))
    mine = {ts: storage.read(logs[ts]) for place, ts in enumerate(within) if place % count == index - 1}
    total, done = sum(map(len, mine.values())), 0
    for number, (ts, data) in enumerate(mine.items(), start=1):
        _say("Spawning compaction.", input_max_ts=str(ts))
        time.sleep(float(os.environ.get("STAND_IN_SECONDS") or 0))
        storage.write(f"{PLACE}/{given.since}-{given.until}/{ts}-{index}.sst", data)
        done += len(data)
        _say("Finishing compaction.", meta_completed=number, meta_total=len(mine), bytes_compacted=done, bytes_to_compact=total)
        if _told_to_fail(storage, given.shard):
            _say("Compaction aborted.", err="stand-in: told to fail")
            time.sleep(_LINGER)  # the real one was seen to stay after this line
            return 1
    return 0


def _told_to_fail(storage: Storage, shard: str) -> bool:
    how, _, which = os.environ.get("STAND_IN_FAIL", "").partition(":")
    if not how or (which and which != shard):
        return False
    mark = f"{PLACE}/failed-{shard.replace('/', '-of-')}"
    first = mark not in storage.names()
    storage.write(mark, b"")
    return how == "always" or first


def _abort(error: str) -> int:
    _say("Compaction aborted.", err=error)
    return 1


def _say(message: str, **fields: object) -> None:
    sys.stderr.write(json.dumps({"level": "INFO", "message": message, **fields}) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
