"""What a spec names against what an artefact holds; and the lists that real tools leave."""

import gzip
from pathlib import Path

import pytest

from backup_manager import content
from backup_manager.content import Asked, Content, Item, Kind, judge
from backup_manager.errors import PermanentError
from backup_manager.storage.base import ObjectInfo
from backup_manager.tools import backupmeta, br_runner

REAL = Path(__file__).parents[2] / "data" / "real_br_full"


def item(place: str, kind: Kind = Kind.TABLE) -> Item:
    schema, _, name = place.partition("|")
    return Item(kind=kind, schema=schema, name=name)


HELD = [
    item("shop|orders"),
    item("shop|We.ird %t"),
    item("shop|v", Kind.VIEW),
    item("app|s", Kind.SEQUENCE),
    item("hohl", Kind.SCHEMA),
    item("größe|maß"),
]


def told(asked: Asked) -> str:
    """Empty when *asked* is content; else the message."""
    try:
        judge(asked, HELD, reason="NothingDumped", verb="exported", where="the dump")
    except PermanentError as error:
        problem = error.problem()
        return problem.message if problem.reason == "NothingDumped" and problem.hint else "no reason, or no hint"
    return ""


@pytest.mark.parametrize(
    "rules",
    [
        [],
        ["shop.*"],
        ["SHOP.Orders"],
        ["shop.orders", "typo.*"],  # a rule with a wildcard may match nothing beside others
        ["shop.orders", "shop.tmp_*", "/^no/.t"],
        ["*.*", "!nosuch.*", "!shop.typo"],
        ['shop."We.ird %t"'],
        ["`größe`.`maß`"],
        ["/^sh/./^or/"],
        ["shop.v"],
        ["app.s"],
        ["hohl.*"],  # an empty schema is content for every table of it
        ["@cannot-be-read-here"],
    ],
)
def test_what_is_named_and_there_is_content(rules: list[str]) -> None:
    assert told(Asked(rules=rules)) == ""


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["nosuch.*"], "nosuch.*"),
        (["shop.typo"], "shop.typo"),
        (["shop.orders", "shop.typo"], "'shop.typo' names nothing"),
        (["shop.orders", "`shop`.`ordrs`"], "ordrs"),
        (["hohl.t"], "hohl.t"),
        (["hohl.t*"], "hohl.t*"),
        (["/^no$/.*"], "/^no$/.*"),
        (["shop.*", "!shop.*"], "!shop.*"),
    ],
)
def test_a_rule_that_names_nothing_is_a_failure_that_quotes_it(rules: list[str], named: str) -> None:
    assert named in told(Asked(rules=rules))


@pytest.mark.parametrize(
    ("asked", "good"),
    [
        (Asked(schema="Shop"), True),
        (Asked(schema="hohl"), True),
        (Asked(schema="nosuch"), False),
        (Asked(schema="shop", table="ORDERS"), True),
        (Asked(schema="shop", table="typo"), False),
    ],
)
def test_a_schema_or_table_that_br_is_told_must_be_there(asked: Asked, good: bool) -> None:
    assert (told(asked) == "") is good


def test_br_is_asked_by_its_kind_of_backup() -> None:
    spec = {"br": {"db": "shop", "table": "t"}, "tableFilter": ["a.*"]}
    assert Asked.of_br(spec) == Asked(rules=["a.*"])
    assert Asked.of_br(spec | {"backupType": "db"}) == Asked(schema="shop")
    assert Asked.of_br(spec | {"backupType": "table"}) == Asked(schema="shop", table="t")


def test_rules_with_wildcards_that_match_nothing_are_told() -> None:
    found = judge(Asked(rules=["shop.*", "typo.*"]), HELD, reason="r", verb="v", where="w")
    assert found == ["typo.*"]


def test_totals_are_unknown_when_one_table_is() -> None:
    known = Item(kind=Kind.TABLE, schema="a", name="t", rows=3, bytes=10, files=2)
    assert Content.of([known, item("a|v", Kind.VIEW), item("b", Kind.SCHEMA)]) == Content(
        schemas=2, tables=1, views=1, files=2, rows=3, bytes=10
    )
    assert Content.of([known, item("a|u")]).rows is None


def test_the_list_is_read_back() -> None:
    items = [*HELD, Item(kind=Kind.TABLE, schema="a", name="t", rows=0, bytes=0, files=0)]
    assert content.unpack(content.pack(items)) == items


def read_real(name: str) -> bytes:
    packed = REAL / f"{name}.gz"
    return gzip.decompress(packed.read_bytes()) if packed.exists() else (REAL / name).read_bytes()


def test_a_real_backup_tells_its_tables_and_files() -> None:
    """Written by br 8.5.0 from a real TiKV: the system's tables under their own schema, one empty schema."""
    items, files = backupmeta.content(read_real("backupmeta"), read_real)
    assert [(found.kind, found.place) for found in backupmeta.users(items)] == [
        (Kind.TABLE, "shop.customers"),
        (Kind.TABLE, "shop.orders"),
        (Kind.TABLE, "shop.parts"),
        (Kind.SCHEMA, "test"),
    ]
    assert "mysql.user" in [found.place for found in items]
    assert sum(name.endswith(".sst") for name in files) == 27
    assert files["backupmeta.schema.000000002"] == 321904


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"a.sst": 1, "b.sst": 2, "other": 9}, ""),
        ({"a.sst": 1}, "does not hold b.sst"),
        ({}, "does not hold a.sst and 1 more"),
        ({"a.sst": 1, "b.sst": 1}, "b.sst has 1 bytes in the storage and 2 in backupmeta"),
    ],
)
def test_files_that_a_backup_names_are_looked_for(listed: dict[str, int], said: str) -> None:
    found = br_runner.damage({"a.sst": 1, "b.sst": 2}, [ObjectInfo(key=key, size=size) for key, size in listed.items()])
    assert said in found
    assert bool(found) is bool(said)
