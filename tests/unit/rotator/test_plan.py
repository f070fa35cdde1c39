"""A renewal never leaves a moment in which one side presents what the other does not accept."""

import base64
import itertools
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.__main__ import Pace
from rotator.certificates import Pair, make_pair, what_is_wrong
from rotator.plan import Change, Credentials, Policy, Step, plan
from rotator.secret import from_secret, to_secret

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
POLICY = Policy(
    names=("hooks.system.svc", "127.0.0.1"),
    renew_after=timedelta(days=30),
    life=timedelta(days=90),
)


def changed(change: Change | None) -> Credentials:
    assert change is not None
    return change.credentials


def through_the_cluster(credentials: Credentials) -> Credentials:
    secret = to_secret(credentials, "x", "y")
    return from_secret(secret["data"], secret["metadata"]["annotations"])


@pytest.fixture(scope="module")
def first() -> Credentials:
    return changed(plan(None, POLICY, NOW))


def history(
    current: Credentials, start: datetime, *, minutes: int = 7, count: int = 8
) -> Iterator[tuple[datetime, Credentials]]:
    now = start
    for _ in range(count):
        change = plan(current, POLICY, now, settled=True)
        current = through_the_cluster(change.credentials) if change else current
        yield now, current
        now += timedelta(minutes=minutes)


def test_the_first_ones_serve_and_are_accepted(first: Credentials) -> None:
    assert what_is_wrong(first.serving, now=NOW) == ""
    assert first.token in first.tokens
    assert len(first.token) == 64
    assert first.trusted == first.serving.certificate


def test_what_is_written_is_what_is_read(first: Credentials) -> None:
    assert through_the_cluster(first) == first


def test_nothing_happens_before_its_time(first: Credentials) -> None:
    stable = replace(first, step=Step.STABLE)
    assert plan(stable, POLICY, NOW + timedelta(days=29, hours=23), settled=True) is None
    assert changed(plan(stable, POLICY, NOW + timedelta(days=30), settled=True)).step is Step.PREPARED


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("hours", [-48, -1, 0, 1000])
def test_no_step_is_taken_while_somebody_has_not_followed_whatever_the_clock_says(
    first: Credentials, step: Step, hours: int
) -> None:
    prepared = changed(plan(replace(first, step=Step.STABLE), POLICY, NOW, settled=True, wanted=True))
    assert plan(replace(prepared, step=step), POLICY, NOW + timedelta(hours=hours), wanted=True) is None


def test_a_name_is_added_by_a_renewal(first: Credentials) -> None:
    more = replace(POLICY, names=(*POLICY.names, "new.svc"))
    stable = replace(first, step=Step.STABLE)
    assert plan(stable, more, NOW) is None
    prepared = changed(plan(stable, more, NOW, settled=True))
    assert (prepared.step, prepared.serving, prepared.token) == (Step.PREPARED, first.serving, first.token)


def test_the_pace_is_that_of_the_slowest_controller(first: Credentials) -> None:
    now = 0.0
    pace = Pace(10, clock=lambda: now)
    assert not pace.settled(first)
    pace.follow(first, changed=True)
    now = 9.0
    pace.follow(first, changed=True)
    now = 18.0
    pace.follow(first, changed=False)
    assert not pace.settled(first)
    now = 19.0
    assert pace.settled(first)
    assert not pace.settled(replace(first, step=Step.STABLE))
    assert not pace.settled(None)


def test_in_a_renewal_each_side_accepts_what_the_other_may_present(first: Credentials) -> None:
    """Webhook and caller may each be one step behind the Secret."""
    states = [replace(first, step=Step.STABLE)]
    states += [state for _, state in history(states[0], NOW + timedelta(days=31))]
    steps = [state for before, state in itertools.pairwise(states) if state != before]
    assert [state.step for state in steps] == [Step.PREPARED, Step.SWITCHED, Step.STABLE]
    assert steps[-1].token != first.token
    assert steps[-1].serving != first.serving
    assert steps[-1].tokens == (steps[-1].token,)
    for before, after in zip([states[0], *steps], steps, strict=False):
        for caller, webhook in ((before, after), (after, before), (after, after)):
            assert caller.token in webhook.tokens
            assert webhook.serving.certificate in caller.trusted


def test_each_step_changes_what_the_caller_trusts_when_it_has_a_token_to_read(first: Credentials) -> None:
    """Metacontroller reads the token again only when the spec of a controller changes."""
    states = [replace(first, step=Step.STABLE), *(state for _, state in history(first, NOW + timedelta(days=31)))]
    for before, after in itertools.pairwise(states):
        assert before.token == after.token or before.trusted != after.trusted


def test_a_renewal_can_be_asked_for(first: Credentials) -> None:
    assert changed(plan(replace(first, step=Step.STABLE), POLICY, NOW, settled=True, wanted=True)).step is Step.PREPARED


OTHER = make_pair(POLICY.names, now=NOW, life=timedelta(days=90))


@pytest.mark.parametrize(
    "damage",
    [
        {"serving": Pair(certificate="", key="")},
        {"serving": Pair(certificate="junk", key="junk")},
        {"serving": Pair(certificate=OTHER.certificate, key=make_pair(POLICY.names, now=NOW, life=POLICY.life).key)},
        {"serving": make_pair(POLICY.names, now=NOW - timedelta(days=100), life=POLICY.life)},
        {"token": ""},
        {"token": "f" * 64},
        {"tokens": ()},
        {"token": "abc", "tokens": ("abc",)},
        {"tokens": ("f" * 64, "two words of a token")},
    ],
)
def test_what_is_damaged_is_made_anew_at_once(first: Credentials, damage: dict[str, object]) -> None:
    mended = changed(plan(replace(first, step=Step.STABLE, **damage), POLICY, NOW))  # type: ignore[arg-type]
    assert what_is_wrong(mended.serving, now=NOW) == ""
    assert mended.token in mended.tokens
    if "serving" in damage:
        assert first.token in mended.tokens, "Metacontroller reads the new one a moment later"
    else:
        assert first.serving.certificate in mended.trusted, "the webhook serves the new one a moment later"
        assert mended.trusted != first.trusted, "or Metacontroller would not read the token"
    assert plan(mended, POLICY, NOW) is None
    assert changed(plan(mended, POLICY, NOW, settled=True)).tokens == (mended.token,)


@pytest.mark.parametrize("text", ["{certificate}{key}", "{key}{certificate}", "junk\n{certificate}junk", "{bare}"])
def test_a_key_in_the_wrong_place_is_never_given_to_the_controllers(first: Credentials, text: str) -> None:
    pair = first.serving
    secret = to_secret(first, "x", "y")
    mixed = text.format(certificate=pair.certificate, key=pair.key, bare=pair.certificate.rstrip())
    secret["data"]["tls.crt"] = base64.b64encode(mixed.encode()).decode()
    found = from_secret(secret["data"], secret["metadata"]["annotations"])
    assert found.trusted == pair.certificate
    assert plan(found, POLICY, NOW) is None


@pytest.mark.parametrize("missing", ["other", "tokens"])
def test_a_renewal_that_lost_its_other_half_ends_with_what_serves(first: Credentials, missing: str) -> None:
    prepared = changed(plan(replace(first, step=Step.STABLE), POLICY, NOW, settled=True, wanted=True))
    damaged = replace(prepared, **{missing: None if missing == "other" else (prepared.token,)})  # type: ignore[arg-type]
    ended = changed(plan(damaged, POLICY, NOW, settled=True))
    assert (ended.step, ended.serving, ended.token) == (Step.STABLE, first.serving, first.token)


@pytest.mark.parametrize("value", ["", "!!", base64.b64encode(b"\xff\xfe").decode()])
def test_a_secret_of_any_content_is_read(value: str) -> None:
    found = from_secret(dict.fromkeys(("tls.crt", "tls.key", "token", "tokens"), value), {"junk": "x"})
    assert changed(plan(found, POLICY, NOW)).token


@pytest.mark.parametrize("order", [1, -1])
def test_each_of_two_trusted_certificates_is_found(order: int) -> None:
    """OpenSSL looks a self-signed certificate up by its subject, Go by all of it."""
    pairs = [make_pair(POLICY.names, now=datetime.now(UTC), life=timedelta(days=90)) for _ in range(2)]
    trust = ssl.create_default_context(cadata="".join(pair.certificate for pair in pairs[::order]))
    for pair in pairs:
        handshake(trust, pair)


def handshake(trust: ssl.SSLContext, pair: Pair) -> None:
    """A handshake in memory. Raises SSLError when the client does not trust the server."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "crt"), Path(folder, "key")
        certificate.write_text(pair.certificate)
        key.write_text(pair.key)
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(certificate, key)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(back, there, server_hostname=POLICY.names[0])
    server = serving.wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.version()
