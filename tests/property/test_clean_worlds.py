"""Random buckets full of siblings that look alike: a clean takes everything under its path, and nothing else."""

import os
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_manager.cleaning.cleaner import Cleaner, CleanOptions
from backup_manager.errors import PartialError
from backup_manager.signals import StopSignal
from backup_manager.storage import s3_client
from backup_manager.storage.memory import Bucket, MemoryStorage
from crds.contract.paths import Location, Provider
from tests.support.fake_s3 import FakeS3, sometimes


class Rushing(StopSignal):
    """Waits take no time; they only move the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


SEEDS = 10
WORLDS = int(os.environ.get("CLEAN_WORLDS", "10000")) // SEEDS
"""Worlds a seed; CLEAN_WORLDS says how many in all."""
PATHS = ("a", "a/b", "a-b", "ä", "a%2Fb", "a b", "a+b", "a&b<c>", "p" * 200, "ab", "A", "a.b", "日本/語", "x" * 1000)
NAMES = (
    "",
    "a",
    "b",
    "/",
    "//",
    "backupmeta",
    "%2F",
    "%",
    "..",
    ".",
    "-",
    "-b",
    ".record.json",
    " ",
    "+",
    "&amp;",
    "<k>",
    "ü",
    "\U0001f4be",
    "u\u0308",
    "\x01",
    "\r\n",
    "\t",
    "\x7f",
    "'\"",
    "~",
    "q/" * 5,
    "\ufffd",
)


def world(chance: random.Random) -> tuple[str, set[str]]:
    """A path to clean, and the keys of a bucket around, beside and inside it."""
    path = chance.choice(PATHS)
    starts = [
        f"{path}/",
        path,
        f"{path}-",
        f"/{path}/",
        f"{path}//",
        f"{path[:-1]}/",
        f"{path}/../",
        "",
        path.upper(),
        f"{path}%2F",
    ]
    keys = set()
    for _ in range(chance.randint(0, 25)):
        key = chance.choice([*starts, f"{path}/"]) + "".join(chance.choices(NAMES, k=chance.randint(0, 4)))
        if key and len(key.encode()) <= 1024:
            keys.add(key)
    return path, keys


def inside(path: str, key: str) -> bool:
    return key.startswith(f"{path}/")


def undeletable(key: str) -> bool:
    """Names that are safe only in a batch's XML, whose other characters forbid XML: reported, never risked."""
    dots = any(part in {".", ".."} for part in key.split("/"))
    return dots and any(char in key for char in "\x01\r\n\t\x7f")


def unsigned(_keys: object, *, headers: Mapping[str, str], **_rest: object) -> dict[str, str]:
    """In the place of a signature: those are compared with botocore's elsewhere, and would take a quarter of the time."""
    return dict(headers)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_worlds_on_the_s3_driver(
    seed: int, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through XML, paging and batching, with a server that fails now and then."""
    chance = random.Random(seed)
    monkeypatch.setattr(s3_client, "signed_headers", unsigned)
    for number in range(WORLDS):
        path, keys = world(chance)
        server = FakeS3(
            versioning=chance.choice(["", "", "Enabled", "Suspended"]),
            page=chance.choice([1, 3, 1000]),
            encode_replacement=number % 3 == 0,
        )
        if server.versioning:
            server.encode_replacement = False  # no S3 server shows such names in a versions listing in two forms
        for key in keys:
            for _ in range(chance.choice([1, 1, 3])):
                server.put(key)
        if number % 4 == 0:
            server.faults.append(sometimes(0.05, seed=number))
        options = CleanOptions(batch_concurrency=chance.randint(1, 4), batches=chance.random() > 0.1)
        stuck = {key for key in keys if inside(path, key) and undeletable(key)}
        rush = Rushing()
        cleaner = Cleaner(server.storage(path), options, stop=rush, clock=lambda rush=rush: rush.now)  # type: ignore[misc]
        try:
            cleaner.run()
            assert not stuck
        except PartialError:
            assert stuck
        left = server.names()
        assert left == {key for key in keys if not inside(path, key)} | stuck, (number, path)
        assert server.requests, number
    record_property("worlds", WORLDS)


keys_strategy = st.sets(
    st.builds(
        "".join, st.tuples(st.sampled_from([*PATHS, ""]), st.sampled_from(["/", "", "//", "-"]), st.text(max_size=8))
    ).filter(bool),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(PATHS), keys=keys_strategy, versioned=st.booleans(), size=st.integers(1, 5))
def test_any_text_in_memory(path: str, keys: set[str], versioned: bool, size: int) -> None:
    bucket = Bucket(versioned=versioned)
    for key in keys:
        bucket.put(key, b"1")
        bucket.put(key, b"22")
    storage = MemoryStorage(Location(provider=Provider.S3, bucket="b", prefix=path), bucket)
    tally = Cleaner(storage, CleanOptions(page_size=size)).run()
    assert set(bucket.objects) == {key for key in keys if not inside(path, key)}
    assert {key for key, _ in bucket.history} <= set(bucket.objects)
    assert tally.deleted == sum(inside(path, key) for key in keys) * (2 if versioned else 1)


@settings(max_examples=200, deadline=None)
@given(locked=st.sets(st.integers(0, 40)), count=st.integers(1, 40))
def test_locked_objects_stay_and_are_dated(locked: set[int], count: int) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    server = FakeS3(versioning="Enabled", lock=True)
    for number in range(count):
        server.put(f"p/q/{number}", until=until if number in locked else None)
    held = {f"p/q/{number}" for number in locked if number < count}
    cleaner = Cleaner(server.storage())
    if held:
        with pytest.raises(PartialError) as caught:
            cleaner.run()
        assert caught.value.problem().reason == "ObjectsLocked"
        assert cleaner.tally.locked == len(held)
        assert cleaner.tally.locked_until == until
    else:
        cleaner.run()
    assert server.names() == held
    assert cleaner.tally.deleted == count - len(held)


@settings(max_examples=100, deadline=None)
@given(crash_after=st.integers(0, 30), count=st.integers(0, 60), seed=st.integers(0, 1000))
def test_crash_anywhere_and_run_again(crash_after: int, count: int, seed: int) -> None:
    server = FakeS3(page=7)
    for number in range(count):
        server.put(f"p/q/{number}")
    server.put("p/q-sibling")
    left = iter(range(crash_after))

    def killed(_request: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    server.faults.append(killed)
    try:
        Cleaner(server.storage(), CleanOptions(page_size=5)).run()
    except KeyboardInterrupt:
        server.faults.clear()
        Cleaner(server.storage()).run()
    assert server.names() == {"p/q-sibling"}
