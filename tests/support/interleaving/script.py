"""A history written by hand: who runs until where, who freezes, whose answer is lost.

    with history(Wanted("export", "p")) as told:
        told.apply("A")
        told.run("A#1", until="puts p/A-aaaaaaaa/metadata")
        told.lose("A#1")
        told.run("A#2")
        told.finish()

A process is ``<CR>#<attempt>``, a clean ``clean-<CR>#<attempt>``; *until* is a part of the call it is then about to make.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.interleaving.patches import new_world
from tests.support.interleaving.plan import Act, Wanted, freeze
from tests.support.interleaving.scheduler import Broken, Decider, Process, Scheduler, State
from tests.support.interleaving.world import Cr


class Script(Decider):
    """The hand that writes it."""

    def __init__(self, *wanted: Wanted) -> None:
        self.scheduler = Scheduler(self, manual=True, trace=[])
        self.world = new_world(self.scheduler, wanted)
        self._until: str | None = None
        self._fails: bool | None = None

    def before(self, scheduler: Scheduler, process: Process, text: str) -> bool | None:
        if scheduler.manual and self._until is not None and self._until in text:
            self._until = None
            scheduler.park(process)
        fails, self._fails = self._fails, None
        return fails

    def apply(self, *names: str) -> None:
        """The user applies CRs."""
        for name in names:
            self.world.act(Act("apply", ord(name) - ord("A")))

    def delete(self, name: str) -> None:
        """The user deletes a CR."""
        self.world.act(Act("delete", ord(name) - ord("A")))

    def run(self, name: str, *, until: str | None = None, or_end: bool = False) -> None:
        """A process runs, alone, until it is about to make a call like *until*, or to its end."""
        process = self._process(name)
        if process.state is not State.READY:
            self.scheduler.wake(process)
        self._until = until
        self.scheduler.step_into(process)
        if self.scheduler.broken:
            self.finish()
        assert self._until is None or or_end, f"{name} ended before: {until}\n{self.told}"
        self._until = None

    def lose(self, name: str) -> None:
        """A node is lost: the process stands still, and the user deletes its Pod by force."""
        process = self._process(name)
        freeze(self.scheduler, process, 0)
        self.world.force_delete(process)

    def freeze(self, name: str) -> None:
        """The process stands still; Kubernetes shows its Pod as running."""
        freeze(self.scheduler, self._process(name), 0)

    def force_delete(self, name: str) -> None:
        """The user deletes its Pod by force; what the process does is not changed by that."""
        self.world.force_delete(self._process(name))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.scheduler.say(f"{name} is killed")
        self.scheduler.kill(self._process(name))

    def lose_answers(self, name: str, count: int) -> None:
        """The call that the process is about to make takes effect; it and those after it, *count* in all, fail for it."""
        self._fails = True
        self._process(name).outage = count - 1

    def refuse(self, name: str, count: int) -> None:
        """The next *count* calls of the process fail without effect."""
        self._fails = False
        self._process(name).outage = count - 1

    def adopt(self, name: str, *keys: str, path: str = "") -> None:
        """A CR of an earlier release is there, with data and no record."""
        self.world.adopt(self.cr(name), {key: f"@@snapshot {name}@1@@ {key}".encode() for key in keys}, path)

    def annotate(self, name: str, annotation: str, value: str) -> None:
        """The user annotates a CR."""
        self.cr(name).annotations[annotation] = value
        self.world.reconcile(self.cr(name))

    def finish(self) -> None:
        """Everybody runs to the end. Raises Broken with the trace."""
        self.scheduler.manual = False
        self._until = None
        try:
            if self.scheduler.broken:
                self.scheduler.close()
                raise Broken(self.scheduler.broken)
            self.scheduler.run()
            wrong = self.world.wrong()
            if wrong:
                raise Broken("; ".join(wrong))
        except Broken as error:
            raise Broken(f"{error}\n{self.told}") from None

    def cr(self, name: str) -> Cr:
        """A CR as it is now."""
        return self.world.crs[ord(name) - ord("A")]

    def keys(self, prefix: str) -> list[str]:
        """Objects of data under *prefix*."""
        ours = (".record.json", ".objects.gz", ".content.gz", "/.history/")
        found = sorted(key for key in self.world.bucket.objects if key.startswith(prefix))
        return [key for key in found if not any(mark in key for mark in ours)]

    @property
    def told(self) -> str:
        """The trace."""
        return "  " + "\n  ".join(self.scheduler.trace or ())

    def _process(self, name: str) -> Process:
        found = next((process for process in self.scheduler.processes if process.name == name), None)
        assert found is not None, f"the hook made no {name}\n{self.told}"
        return found


@contextmanager
def history(*wanted: Wanted) -> Iterator[Script]:
    """A history of these CRs, called A, B, ...; :func:`.patches.real_code` must hold."""
    script = Script(*wanted)
    try:
        yield script
    finally:
        script.scheduler.close()
