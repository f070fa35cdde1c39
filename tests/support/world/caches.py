"""Informers' caches: behind the store by some writes, each kind on its own, never going back."""

from collections import defaultdict, deque
from collections.abc import Mapping

from cli.simulator.store import Object, Store


class LaggingCaches:
    """What Metacontroller sees of *store*. Writes wait in a queue for each kind until the cache takes them in."""

    def __init__(self, store: Store) -> None:
        self._seen: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self._queues: defaultdict[str, deque[tuple[str, Object | None]]] = defaultdict(deque)
        store.watchers.append(self._on_write)

    def _on_write(self, kind: str, key: str, _before: Object | None, after: Object | None) -> None:
        self._queues[kind].append((key, after))

    def of(self, kind: str) -> Mapping[str, Object]:
        """The objects of *kind* as far as they are seen."""
        return self._seen[kind]

    def unseen(self, kind: str) -> list[Object | None]:
        """The versions of *kind* that are still to be seen, oldest first; None is a deletion."""
        return [obj for _, obj in self._queues[kind]]

    def catch_up(self, kind: str, *, but: int = 0) -> None:
        """See all writes of *kind* except the last *but* ones; what was seen is never unseen."""
        seen, queue = self._seen[kind], self._queues[kind]
        while len(queue) > but:
            key, obj = queue.popleft()
            if obj is None:
                seen.pop(key, None)
            else:
                seen[key] = obj

    def catch_up_all(self) -> None:
        """See every write."""
        for kind in self._queues:
            self.catch_up(kind)
