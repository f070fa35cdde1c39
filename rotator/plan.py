"""What the Secret of the webhook holds, and what it is to hold next. Pure but for random numbers.

A renewal takes three steps, so that at no time somebody presents what the other side does not accept yet:

1. ``prepared``: a new certificate and token exist; the webhook accepts both tokens, the caller trusts both certificates.
2. ``switched``: the webhook serves the new certificate, the caller presents the new token; the old ones are still good.
3. ``stable``: only the new ones are left.

Between two steps lies the time for kubelets to renew the mounted Secret and for Metacontroller to take its part over: whoever
calls :func:`plan` says when it is over.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from rotator.certificates import Pair, is_for, issued_at, make_pair, what_is_wrong

_TOKEN_BYTES: Final = 32
_SOUND_TOKEN: Final = re.compile(r"[!-~]{16,}")
"""What the webhook takes: no white space, not too short to be guessed."""


class Step(StrEnum):
    """Where a renewal is."""

    STABLE = "stable"
    PREPARED = "prepared"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """*names* that the certificate is for; *renew_after* the age at which a renewal begins, *life* of a certificate."""

    names: Sequence[str]
    renew_after: timedelta
    life: timedelta


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


def plan(
    current: Credentials | None, policy: Policy, now: datetime, *, settled: bool = False, wanted: bool = False
) -> Change | None:
    """The next step at *now* (aware), None when all is well.

    *settled*: webhook and caller had the time to take over what is *current*; without it nothing is renewed, only mended.
    *wanted*: somebody asked for a renewal.
    """
    if mended := _mended(current, policy, now):
        return mended
    if current is None or not settled:
        return None
    match current.step:
        case Step.STABLE if why := _why_renew(current, policy, now, wanted=wanted):
            return Change(credentials=_prepared(current, policy, now), why=why)
        case Step.PREPARED:
            return _switched(current, policy, now)
        case Step.SWITCHED:
            return Change(credentials=_settled(current, now), why="both sides use the new ones")
    return None


def _mended(current: Credentials | None, policy: Policy, now: datetime) -> Change | None:
    """What is to be done at once, None when *current* can be used."""
    if current is None:
        return Change(credentials=_first(policy, now, ()), why="there are none yet")
    if wrong := what_is_wrong(current.serving, now=now):
        # Nobody can be served with it, so nothing is lost by new ones at once. The caller keeps its token where it can.
        return Change(credentials=_first(policy, now, _sound_tokens(current)), why=wrong)
    if current.token not in current.tokens or _sound_tokens(current) != tuple(current.tokens):
        return Change(credentials=_new_token(current, policy, now), why="a token is not one that the webhook takes")
    return None


def _why_renew(current: Credentials, policy: Policy, now: datetime, *, wanted: bool) -> str:
    if wanted:
        return "a renewal was asked for"
    if not is_for(current.serving.certificate, policy.names):
        return "the certificate is for other names"
    due = now - issued_at(current.serving.certificate) >= policy.renew_after
    return "it is time for a renewal" if due else ""


def _sound_tokens(current: Credentials) -> tuple[str, ...]:
    """Those that the webhook takes."""
    return tuple(token for token in current.tokens if _SOUND_TOKEN.fullmatch(token))


def _first(policy: Policy, now: datetime, accepted: Sequence[str]) -> Credentials:
    """New ones at once; two of the tokens *accepted* before are accepted until the next step."""
    token = secrets.token_hex(_TOKEN_BYTES)
    pair = make_pair(policy.names, now=now, life=policy.life)
    return Credentials(step=Step.SWITCHED, changed=now, serving=pair, tokens=(*accepted[-2:], token), token=token)


def _new_token(current: Credentials, policy: Policy, now: datetime) -> Credentials:
    """A token at once, and a certificate with it: only its change makes the caller read the token. The one from before stays
    trusted."""
    return replace(_first(policy, now, _sound_tokens(current)), other=current.serving)


def _prepared(current: Credentials, policy: Policy, now: datetime) -> Credentials:
    return replace(
        current,
        step=Step.PREPARED,
        changed=now,
        other=make_pair(policy.names, now=now, life=policy.life),
        tokens=(current.token, secrets.token_hex(_TOKEN_BYTES)),
    )


def _switched(current: Credentials, policy: Policy, now: datetime) -> Change:
    other = current.other
    unfit = other is None or what_is_wrong(other, now=now) or not is_for(other.certificate, policy.names)
    if other is None or unfit or len(current.tokens) < 2:
        return Change(credentials=_settled(current, now), why="the renewal that began cannot go on")
    switched = replace(current, step=Step.SWITCHED, changed=now, serving=other, other=current.serving, token=current.tokens[-1])
    return Change(credentials=switched, why="both sides know the new ones")


def _settled(current: Credentials, now: datetime) -> Credentials:
    return replace(current, step=Step.STABLE, changed=now, other=None, tokens=(current.token,))
