"""What the Secret of the webhook holds, and what it is to hold next. Pure but for random numbers.

A renewal takes three steps, so that at no time somebody presents what the other side does not accept yet:

1. ``prepared``: a new certificate and token exist; the webhook accepts both tokens, the caller trusts both certificates.
2. ``switched``: the webhook serves the new certificate, the caller presents the new token; the old ones are still good.
3. ``stable``: only the new ones are left.

Between two steps lies the time for kubelets to renew the mounted Secret and for Metacontroller to take its part over.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from rotator.certificates import Pair, issued_at, make_pair, what_is_wrong

_TOKEN_BYTES: Final = 32


class Step(StrEnum):
    """Where a renewal is."""

    STABLE = "stable"
    PREPARED = "prepared"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """*names* that the certificate is for; *renew_after* the age at which a renewal begins, *life* of a certificate, *settle*
    the least time between two steps."""

    names: Sequence[str]
    renew_after: timedelta
    life: timedelta
    settle: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """All there is: *serving* what the webhook serves, *other* the pair before or after it during a renewal; *tokens* that it
    accepts, *token* the one that the caller presents."""

    step: Step
    changed: datetime
    serving: Pair
    other: Pair | None = None
    tokens: Sequence[str]
    token: str

    @property
    def trusted(self) -> str:
        """PEM of the certificates that the caller trusts, the one in service first."""
        return self.serving.certificate + (self.other.certificate if self.other else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The *credentials* to write, and *why*, for the log."""

    credentials: Credentials
    why: str


def plan(current: Credentials | None, policy: Policy, now: datetime, *, wanted: bool = False) -> Change | None:
    """The next step at *now* (aware), None when all is well. *wanted*: somebody asked for a renewal."""
    if current is None or (wrong := _what_is_unusable(current, policy, now)):
        # Nobody can be served as it is, so nothing is lost by new ones at once. Callers keep their token where they can.
        why = "there are none yet" if current is None else wrong
        return Change(credentials=_first(policy, now, current.tokens if current else ()), why=why)
    waited = now - current.changed  # less than nothing when the clock was wrong: then it tells nothing
    if current.step is not Step.STABLE and timedelta(0) <= waited < policy.settle:
        return None
    match current.step:
        case Step.STABLE if wanted or now - issued_at(current.serving.certificate) >= policy.renew_after:
            why = "a renewal was asked for" if wanted else "it is time for a renewal"
            return Change(credentials=_prepared(current, policy, now), why=why)
        case Step.PREPARED:
            return _switched(current, policy, now)
        case Step.SWITCHED:
            return Change(credentials=_settled(current, now), why="both sides use the new ones")
    return None


def _what_is_unusable(current: Credentials, policy: Policy, now: datetime) -> str:
    if wrong := what_is_wrong(current.serving, policy.names, now=now):
        return wrong
    return "" if current.token in current.tokens else "the caller's token is not one that is accepted"


def _first(policy: Policy, now: datetime, accepted: Sequence[str]) -> Credentials:
    """New ones at once; tokens *accepted* before are accepted until the next renewal."""
    token = secrets.token_hex(_TOKEN_BYTES)
    pair = make_pair(policy.names, now=now, life=policy.life)
    return Credentials(step=Step.SWITCHED, changed=now, serving=pair, tokens=(*accepted, token)[-2:], token=token)


def _prepared(current: Credentials, policy: Policy, now: datetime) -> Credentials:
    return replace(
        current,
        step=Step.PREPARED,
        changed=now,
        other=make_pair(policy.names, now=now, life=policy.life),
        tokens=(current.token, secrets.token_hex(_TOKEN_BYTES)),
    )


def _switched(current: Credentials, policy: Policy, now: datetime) -> Change:
    if current.other is None or what_is_wrong(current.other, policy.names, now=now) or len(current.tokens) < 2:
        return Change(credentials=_settled(current, now), why="the renewal that began cannot go on")
    switched = replace(
        current, step=Step.SWITCHED, changed=now, serving=current.other, other=current.serving, token=current.tokens[-1]
    )
    return Change(credentials=switched, why="both sides know the new ones")


def _settled(current: Credentials, now: datetime) -> Credentials:
    return replace(current, step=Step.STABLE, changed=now, other=None, tokens=(current.token,))
