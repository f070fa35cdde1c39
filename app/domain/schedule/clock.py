"""Whether the webhook's own clock may be acted upon: the API server's clock has to bear it out.

A schedule is the one kind for which time alone makes and deletes things, so a clock that is a year off would do harm at once.
Each write to the schedule's status carries the time of the API server's clock (``metadata.managedFields``). If the newest of
them is at most :data:`TOLERANCE` away from ours, what is due may be done. If it is older, as after a quiet week, a pass that
would act *asks* first: it writes what our clock shows into ``status.clockCheck``, that write brings a new time, and the next
pass, moments later, compares. So whatever our clock does, nothing is done that is not due within TOLERANCE of the API
server's time; and once the clock is right again, the next pass goes on. (docs/adr/0003-clock.md)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.observed import Object, part
from app.domain.times import moment, stamp, witnessed

TOLERANCE: Final = timedelta(minutes=10)
"""How far the two clocks may be apart. It is also how long an answer counts, so a wrong clock writes no more than one status
in that time."""

AHEAD: Final = "ClockAhead"
BEHIND: Final = "ClockBehind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The standing of our clock in one pass.

    *trusted*: nothing speaks against it, what is due may be done. *confirmed*: the API server's time bears it out, so a time
    in the future is wrong. *check* is ``status.clockCheck`` as it has to be written by a pass that would act, and by every one
    while *reason* is set: the clock is wrong, as *message* says, since the API server's time *at*.
    """

    trusted: bool
    confirmed: bool = False
    check: Mapping[str, Any] | None = None
    reason: str = ""
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """What our clock showed, and the API server's when it was not about the same."""

    shown: datetime
    answer: datetime | None = None

    @property
    def wrong(self) -> bool:
        # Half of it, so that a clock which passes here passes as trusted once its answer is there, and does not ask twice.
        return self.answer is not None and abs(self.shown - self.answer) > TOLERANCE / 2

    def written(self) -> dict[str, Any]:
        return {name: stamp(time) for name, time in (("shown", self.shown), ("answer", self.answer)) if time}


def _read(status: Mapping[str, Any]) -> _Check | None:
    said = part(status, "clockCheck")
    shown = moment(said.get("shown"))
    return _Check(shown=shown, answer=moment(said.get("answer"))) if shown else None


def judge(parent: Object, status: Mapping[str, Any], now: datetime) -> Clock:
    """How our clock, which shows *now*, stands to the API server's, as *parent* and its received *status* tell."""
    witness, check, received = witnessed(parent), _read(status), part(status, "clockCheck") or None
    now = now.replace(microsecond=0)
    # What was shown says something about this clock only while it goes on from there.
    current = check if check and check.shown <= now < check.shown + TOLERANCE else None
    asked = _Check(shown=now)
    if witness is None:
        # No API server leaves the managed fields out. Should one, two passes have to agree at least.
        return Clock(trusted=current is not None, check=received if current else asked.written())
    if abs(now - witness) <= TOLERANCE:
        return Clock(trusted=True, confirmed=True, check=_Check(shown=check.shown).written() if check else None)
    if now < witness:
        behind = current and current.answer and current.shown < current.answer
        return _wrong(current if current and behind else _Check(shown=now, answer=witness))
    # The write that brought the check into the status has its time in the managed fields of the same object.
    if current and (answered := replace(current, answer=current.answer or witness)).wrong:
        return _wrong(answered)
    if check and check.shown <= now and check.wrong:
        # Asked again, a clock that was wrong counts as wrong until the answer is there.
        return _wrong(check, written=asked)
    return Clock(trusted=False, check=asked.written())


def _wrong(check: _Check, *, written: _Check | None = None) -> Clock:
    answer = check.answer or check.shown
    message = (
        f"the webhook's clock showed {stamp(check.shown)} when the API server's showed {stamp(answer)}: nothing is made or "
        "deleted until they agree; look at the time service of the webhook's node, and of the API server's"
    )
    reason = AHEAD if check.shown > answer else BEHIND
    return Clock(trusted=False, check=(written or check).written(), reason=reason, message=message, at=answer)
