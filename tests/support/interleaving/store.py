"""The bucket as one process sees it: each request may be delayed, refused, or answered into the void.

It is driven as the real drivers do it: reads are repeated with_retries, a conditional write recognises its own first success by
its content (:mod:`backup_manager.storage.retry`), and a batch of deletions is tried once. Pages and batches are tiny, so
that there is something between two of them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import orjson

from backup_manager.catalog import audit_log
from backup_manager.storage.base import DeleteFailure, ObjectInfo, StoreState, Target, Upload
from backup_manager.storage.memory import Bucket, MemoryStorage, etag_of
from backup_manager.storage.retry import conditional_put, delete_all, with_retries
from crds.contract.paths import READERS_SUFFIX, Location
from tests.support.interleaving.scheduler import Scheduler

T = TypeVar("T")
PAGE: Final = 3
_HISTORY: Final = f"{audit_log.FOLDER}/"
"""Nothing that counts depends on reading the audit trail, which would be half of all calls: no points there."""
Effect = Callable[[str, bytes | None, bytes | None], None]
"""Told of each change: absolute key, what was there, what is there now."""


class ScheduledStorage(MemoryStorage):
    """One folder of the bucket, seen by whoever runs."""

    def __init__(
        self, location: Location, bucket: Bucket, scheduler: Scheduler, effect: Effect, renews: Callable[[str], bool]
    ) -> None:
        super().__init__(location, bucket)
        self._renews = renews
        self.batch_size = PAGE
        self._scheduler = scheduler
        self._effect = effect

    def at(self, location: Location) -> "ScheduledStorage":
        return ScheduledStorage(location, self.bucket, self._scheduler, self._effect, self._renews)

    def put(self, key: str, data: bytes) -> None:
        """One PUT of a tool, without condition."""
        self._patiently(f"puts {self._base}{key}", lambda: self._put(key, data, if_absent=False, if_match=None))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for page in self._pages(prefix):
            for key in page:
                if (data := self.bucket.objects.get(key)) is not None:
                    yield ObjectInfo(key=key[len(self._base) :], size=len(data), etag=etag_of(data))

    def stat(self, key: str) -> ObjectInfo:
        data = self._read("heads", key)
        return ObjectInfo(key=key, size=len(data), etag=etag_of(data))

    def read(self, key: str) -> bytes:
        return self._read("gets", key)

    def fetch(self, key: str) -> tuple[bytes, str]:
        data = self.read(key)
        return data, etag_of(data)

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        how = " if absent" if if_absent else " if unchanged" if if_match is not None else ""
        text = f"puts {self._base}{key}{how}"
        return conditional_put(
            lambda: self._scheduler.call(text, lambda: self._put(key, data, if_absent=if_absent, if_match=if_match)),
            lambda: self.fetch(key),
            data,
            sleep=self._scheduler.wait,
        )

    def delete(self, keys: Sequence[str]) -> Sequence[DeleteFailure]:
        return delete_all(self.delete_batch, keys, self.batch_size, sleep=self._scheduler.wait)

    def targets(self, prefix: str = "") -> Iterator[Sequence[Target]]:
        for page in self._pages(prefix):
            if page:
                objects = self.bucket.objects
                yield [Target(key[len(self._base) :], None, len(objects.get(key, b""))) for key in page]

    def delete_batch(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        return self._scheduler.call(
            f"deletes {', '.join(self._base + target.key for target in batch)}", lambda: self._delete(batch)
        )

    def uploads(self) -> Iterator[Upload]:
        return iter(())

    def state(self) -> StoreState:
        return self._patiently("asks for the bucket's state", lambda: MemoryStorage.state(self))

    def _read(self, verb: str, key: str) -> bytes:
        if self._base.endswith(_HISTORY):
            return MemoryStorage.read(self, key)
        return self._patiently(f"{verb} {self._base}{key}", lambda: MemoryStorage.read(self, key))

    def _pages(self, prefix: str) -> Iterator[Sequence[str]]:
        """Absolute keys, a page at a time, each as the bucket is when it is asked for."""
        start = self._base + prefix
        page: Sequence[str] = [""]
        text = f"lists {start}"
        while page:
            page = self._patiently(text, partial(self._page, start, page[-1]))
            yield page
            if len(page) < PAGE:
                return
            text = f"lists {start} after {page[-1]!r}"

    def _renew_marks(self) -> None:
        """Readers that run renew their marks all the time: whoever looks finds them changed."""
        for key in [key for key in self.bucket.objects if f"{READERS_SUFFIX}/" in key]:
            mark = orjson.loads(self.bucket.objects[key])
            if self._renews(mark["attempt"]):
                self.bucket.objects[key] = orjson.dumps({**mark, "token": f"{self._scheduler.steps}"})

    def _page(self, start: str, last: str) -> Sequence[str]:
        if self._base.endswith(f"{READERS_SUFFIX}/"):
            self._renew_marks()
        return sorted(key for key in self.bucket.objects if key.startswith(start) and key > last)[:PAGE]

    def _put(self, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
        there = self.bucket.objects.get(self._base + key)
        etag = MemoryStorage.write(self, key, data, if_absent=if_absent, if_match=if_match)
        self._effect(self._base + key, there, data)
        return etag

    def _delete(self, batch: Sequence[Target]) -> Sequence[DeleteFailure]:
        for target in batch:
            there = self.bucket.objects.pop(self._base + target.key, None)
            if there is not None:
                self._effect(self._base + target.key, there, None)
        return ()

    def _patiently(self, text: str, do: Callable[[], T]) -> T:
        return with_retries(lambda: self._scheduler.call(text, do), sleep=self._scheduler.wait)
