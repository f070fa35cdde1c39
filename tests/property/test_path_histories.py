"""Everything that two processes can do to one path: managers and cleaners run their real code, one call at a time, in an order
that a plan decides, with crashes, frozen processes, Pods deleted by force, and calls whose answer is lost.

``PATH_HISTORIES`` says how many random histories are played (10,000), ``PATH_SEED`` where their seeds begin.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_manager.catalog import ownership
from backup_manager.catalog.ownership import Actor
from backup_manager.catalog.records import Records
from backup_manager.operations import clean
from backup_manager.tidb import target_lock
from crds.contract import names
from tests.support.interleaving.histories import KINDS, WHENS, play, random_plan, search
from tests.support.interleaving.patches import real_code
from tests.support.interleaving.plan import Act, Interference, Plan, Wanted
from tests.support.interleaving.script import history
from tests.support.interleaving.store import ScheduledStorage

CHUNKS = 10
HISTORIES = int(os.environ.get("PATH_HISTORIES", "10000")) // CHUNKS
FIRST = int(os.environ.get("PATH_SEED", "0"))


@pytest.fixture(autouse=True)
def patched() -> Iterator[pytest.MonkeyPatch]:
    with real_code() as patch:
        yield patch


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_histories(chunk: int, record_property: Callable[[str, object], None]) -> None:
    first = FIRST + chunk * HISTORIES
    found = search(range(first, first + HISTORIES))
    assert found is None, f"\n{found}"
    record_property("worlds", HISTORIES)


crs = st.builds(
    Wanted,
    st.sampled_from(("export", "br", "br-old")),
    st.sampled_from(("p", "p/x", "p-x")),
    st.sampled_from(("Delete", "Retain", "OnFailure")),
    st.sampled_from(("one", "two")),
)
interferences = st.builds(
    Interference, st.integers(0, 60), st.sampled_from(list(dict.fromkeys(KINDS))), st.integers(0, 11), st.sampled_from(WHENS)
)
acts = st.builds(Act, st.sampled_from(("apply", "delete")), st.integers(0, 2), st.booleans())


@settings(max_examples=300, deadline=None)
@given(
    cr=st.tuples(crs, crs, crs),
    act=st.lists(acts, min_size=1, max_size=6),
    interference=st.lists(interferences, max_size=8),
    turn=st.sampled_from((0, 1, 5, 20)),
)
def test_any_history(cr: tuple[Wanted, ...], act: list[Act], interference: list[Interference], turn: int) -> None:
    plan = Plan(crs=cr, acts=tuple(act), interferences=tuple(interference), turn=turn)
    played = play(plan)
    assert not played.broken, f"\n{play(plan, traced=True)}"


# Histories that once lost data.


def test_a_clean_that_waited_looks_again_whose_path_it_is() -> None:
    with history(Wanted("br", "p", cluster="one"), Wanted("br", "p", cluster="two")) as told:
        told.apply("A")
        told.run("A#1", until="gets p.record.json")
        told.freeze("A#1")
        told.delete("A")
        told.run("clean-A#1", until="waits")
        told.apply("B")
        told.run("B#1")
        told.kill("A#1")
        told.finish()
        assert told.cr("B").has("Complete")
        assert told.cr("A").reason == "BackupPathClaimed"


def test_a_clean_owns_the_path_of_data_without_a_record_before_it_deletes() -> None:
    with history(Wanted("br", "p", cluster="one"), Wanted("br", "p", cluster="two")) as told:
        told.adopt("A", "p/0.sst", "p/backupmeta")
        told.delete("A")
        told.run("clean-A#1", until="deletes p/")
        told.run("clean-A#1", until="lists p/")
        told.apply("B")
        told.run("B#1", until="puts p/1_", or_end=True)
        told.run("clean-A#1")
        told.finish()
        assert told.cr("A").gone
        assert told.cr("B").has("Complete") or told.cr("B").reason == "BackupPathClaimed"


def test_an_attempt_that_finds_its_own_claim_checks_the_neighbours_too() -> None:
    with history(Wanted("br", "p", cluster="one"), Wanted("br", "p/x", cluster="two")) as told:
        told.apply("A", "B")
        told.run("A#1")
        told.run("B#1", until="puts p/x.record.json")
        told.lose_answers("B#1", 20)
        told.run("B#1")
        told.finish()
        assert told.cr("A").has("Complete")
        assert told.cr("B").reason == "BackupPathClaimed"


@pytest.mark.parametrize(
    "until", ["lists", "puts p/A-aaaaaaaa/shop.t.000000000.sql", "puts p/A-aaaaaaaa/metadata", "puts p/A-aaaaaaaa.objects.gz"]
)
def test_a_frozen_export_that_thaws_cannot_touch_the_data_of_its_successor(until: str) -> None:
    with history(Wanted("export", "p")) as told:
        told.apply("A")
        told.run("A#1", until=until)
        told.lose("A#1")
        told.run("A#2")
        assert told.cr("A").has("Complete")
        told.finish()


def test_a_refused_clean_is_refused_again_and_goes_on_when_it_is_confirmed() -> None:
    with history(Wanted("br", "p", "Retain"), Wanted("br", "p", "Delete")) as told:
        told.apply("A")
        told.run("A#1")
        told.delete("A")
        assert told.cr("A").gone
        told.adopt("B")
        told.delete("B")
        for attempt in (1, 2):
            told.run(f"clean-B#{attempt}")
            assert not told.cr("B").gone, told.told
            assert told.cr("B").reason == "BackupPathClaimed"
        told.annotate("B", names.CONFIRM_CLEAN_ANNOTATION, told.cr("A").uid)
        told.finish()
        assert told.cr("B").gone
        assert not told.keys("p/")


def test_a_claim_is_given_back_only_while_it_is_the_attempts_own() -> None:
    with history(Wanted("br", "p/x")) as told:
        told.apply("A")
        told.run("A#1", until="puts p/x.record.json if absent")
        told.run("A#1", until="gets p.record.json")
        told.refuse("A#1", 6)
        told.run("A#1", until="p/x.record.json")
        told.lose("A#1")
        told.run("A#2")
        told.finish()


@pytest.mark.parametrize("path", ["p/x", "p"])
def test_a_cleaner_that_was_not_seen_to_end_keeps_its_path_and_what_is_inside_from_others(path: str) -> None:
    with history(Wanted("br", "p"), Wanted("br", path)) as told:
        told.apply("A")
        told.run("A#1")
        told.delete("A")
        told.run("clean-A#1", until="deletes")
        told.lose("clean-A#1")
        told.run("clean-A#2")
        assert told.cr("A").gone
        told.apply("B")
        told.run("B#1")
        told.finish()
        assert told.cr("B").reason == "BackupPathInUse"


def test_a_complete_backup_lists_no_records_of_others() -> None:
    with history(Wanted("br", "p", cluster="one"), Wanted("br", "p/x", cluster="two")) as told:
        told.apply("A", "B")
        told.run("A#1", until="gets .record.json")
        told.run("B#1", until="puts p/.history")
        told.run("A#1")
        told.finish()
        assert told.cr("A").has("Complete")
        assert told.cr("B").reason == "BackupPathClaimed"
        assert not [key for key in told.world.watch.kept if "record.json" in key or ".history" in key]


@pytest.mark.parametrize("until", ["lists p/", "gets p.record.json"])
def test_a_backup_that_never_claimed_its_path_deletes_nothing_there(until: str) -> None:
    with history(Wanted("br", "p", "Retain"), Wanted("br", "p")) as told:
        told.adopt("A", "p/0.sst", "p/backupmeta")
        told.apply("B")
        told.run("B#1", until=until)
        told.kill("B#1")
        told.delete("B")
        told.finish()
        assert told.keys("p/") == ["p/0.sst", "p/backupmeta"]
        assert told.cr("B").reason == "BackupPathInUse"


def test_a_path_that_was_refused_to_two_is_cleaned_for_neither() -> None:
    with history(Wanted("br", "p", "Retain"), Wanted("br", "p"), Wanted("br", "p")) as told:
        told.adopt("A", "p/0.sst", "p/backupmeta")
        told.apply("B", "C")
        told.run("B#1")
        told.delete("B")
        told.run("C#1", until="puts p.record.json")
        told.run("clean-B#1", until="asks for Pods")
        told.run("C#1")
        told.finish()
        assert told.keys("p/") == ["p/0.sst", "p/backupmeta"]


def test_what_a_late_writer_left_on_a_path_that_was_free_is_seen() -> None:
    with history(Wanted("br-old", "p", cluster="one"), Wanted("br", "p", cluster="two")) as told:
        told.apply("A")
        told.run("A#1", until="puts p/2_")
        told.freeze("A#1")
        told.delete("A")
        told.force_delete("A#1")
        told.apply("B")
        told.run("B#1", until="lists p/")
        told.run("clean-A#1")
        told.run("A#1")
        told.finish()
        assert told.cr("B").reason == "BackupPathInUse"


def test_a_probe_that_a_killed_attempt_left_is_no_part_of_a_backup() -> None:
    with history(Wanted("br", "p", preflight=True)) as told:
        told.apply("A")
        told.run("A#1", until="deletes p/.tidb-backup-probe")
        told.lose("A#1")
        told.run("A#2")
        told.finish()
        assert told.cr("A").has("Complete")


@pytest.mark.parametrize("until", ["asks one", "loads shop.t.000000000.sql", "loads shop.t.000000001.sql"])
def test_of_two_imports_into_one_target_one_waits_and_is_refused(until: str) -> None:
    imports = (Wanted("restore", "0", cluster="one"), Wanted("restore", "0", cluster="one"))
    with history(Wanted("export", "p"), *imports) as told:
        told.apply("A")
        told.run("A#1")
        told.apply("B", "C")
        told.run("B#1", until=until)
        told.run("C#1", until="waits", or_end=True)
        told.finish()
        reasons = sorted(told.cr(name).reason for name in "BC")
        assert reasons == ["", "TargetNotEmpty"]


def test_two_restores_of_an_export_that_is_written_again_load_it_once() -> None:
    imports = (Wanted("restore", "0", cluster="two"), Wanted("restore", "0", cluster="two"))
    with history(Wanted("export", "p", cluster="one"), *imports) as told:
        told.apply("A")
        told.run("A#1", until="puts p/A-aaaaaaaa.objects.gz")
        told.kill("A#1")
        told.apply("B", "C")
        told.run("B#1")
        told.run("C#1", until="lists p/A-aaaaaaaa/", or_end=True)
        told.run("A#2")
        told.finish()
        assert told.cr("A").has("Complete")
        assert not (told.cr("B").has("Complete") and told.cr("C").has("Complete")), told.told


# The model itself.


def test_the_same_plan_gives_the_same_history() -> None:
    plan = Plan(
        crs=(Wanted("export", "p"), Wanted("br", "p/x")),
        acts=(Act("apply", 0), Act("apply", 1), Act("delete", 0)),
        interferences=tuple(Interference(5, kind, 1) for kind in dict.fromkeys(KINDS)),
    )
    assert play(plan, traced=True) == play(plan, traced=True)
    assert play(plan, traced=True).trace


def _ignore(*_: object, **__: object) -> None:
    return None


def unconditional_writes(patch: pytest.MonkeyPatch) -> None:
    def put(self: ScheduledStorage, key: str, data: bytes, **_: object) -> str:
        return real(self, key, data, if_absent=False, if_match=None)

    real = ScheduledStorage._put
    patch.setattr(ScheduledStorage, "_put", put)


def stale_writers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ownership, "_held", lambda there, _mine: there)


def blind_to_neighbours(patch: pytest.MonkeyPatch) -> None:
    for name in ("check_ancestors", "check_descendants"):
        patch.setattr(Records, name, _ignore)


def cleaners_that_ignore_readers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clean, "wait_for_readers", lambda *_: False)


def everybody_has_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Actor, "still_open", lambda _self, _record: ())


def one_folder_for_all_attempts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ownership, "_folder", lambda _number: "")


def unlocked_targets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(target_lock, "held", lambda *_, **__: nullcontext())


@pytest.mark.parametrize(
    "broken",
    [
        unconditional_writes,
        stale_writers,
        blind_to_neighbours,
        cleaners_that_ignore_readers,
        everybody_has_ended,
        one_folder_for_all_attempts,
        unlocked_targets,
    ],
)
def test_a_protocol_with_a_hole_is_found(patched: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]) -> None:
    broken(patched)
    assert any(play(random_plan(random.Random(seed))).broken for seed in range(10_000))
