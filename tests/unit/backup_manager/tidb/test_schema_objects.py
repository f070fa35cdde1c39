"""Views, sequences and policies of an export: what is found, and what a dump of another program holds."""

import gzip
from collections.abc import Sequence
from typing import Any

import pytest

from backup_manager.errors import PermanentError
from backup_manager.tidb import schema_objects
from backup_manager.tidb.connection import DatabaseError
from backup_manager.tidb.schema_objects import KEY, NamedSequence, NamedView, SchemaObjects
from tests.support.manager import FakeDatabase

CREATE = "CREATE SEQUENCE `s` start with 1 minvalue 1 maxvalue 9 increment by 1 nocache nocycle ENGINE=InnoDB"
DUMPED = f"/*!40101 SET NAMES binary*/;\n{CREATE};\nSELECT SETVAL(`s`,4);\n"
POLICY = "/*!40101 SET NAMES binary*/;\n/*T![placement] CREATE PLACEMENT POLICY `far` FOLLOWERS=2 */;\n"


def database() -> FakeDatabase:
    return FakeDatabase(
        objects=[("shop", "s", "SEQUENCE"), ("shop", "v", "VIEW"), ("sys", "x", "VIEW"), ("other", "v", "VIEW")],
        shown={
            "show create sequence `shop`.`s`": [("s", CREATE)],
            "select sequence_schema": [("shop", "s", 1, 1, 9), ("shop", "other", 2, 1, 9)],
            "show table `shop`.`s` next_row_id": [
                ("shop", "s", "_tidb_rowid", 1, "_TIDB_ROWID"),
                ("shop", "s", "", 5, "SEQUENCE"),
            ],
            "show create view `shop`.`v`": [("v", "CREATE VIEW `v` AS SELECT 1", "utf8mb4", "utf8mb4_bin")],
            "show create database `shop`": [("shop", "CREATE DATABASE `shop`")],
        },
    )


def test_what_the_filter_selects_is_found_and_comes_back_the_same_from_the_document() -> None:
    found = schema_objects.collect(database().ask, ["shop.*"], version=64)
    assert found.objects == SchemaObjects(
        schemas={"shop": "CREATE DATABASE `shop`"},
        sequences=(NamedSequence(schema="shop", name="s", create=CREATE, last=4),),
        views=(NamedView(schema="shop", name="v", create="CREATE VIEW `v` AS SELECT 1"),),
    )
    assert schema_objects.of_dump([KEY], {KEY: found.objects.to_json()}.__getitem__, "x") == found.objects
    assert not found.objects.selected(["shop.nothing"])


def test_what_options_leave_out_is_named() -> None:
    found = schema_objects.collect(database().ask, ["shop.*"], views=False, sequences=False)
    assert not found.objects
    assert found.left_out == ("views: 1, by spec.dumpling.options", "sequences: 1, by spec.dumpling.options")


SNAPSHOT = "470818850860171264"


def test_definitions_are_read_at_the_snapshot_of_the_dump_and_values_as_of_now() -> None:
    here = database()
    found = schema_objects.collect(here.ask, ["shop.*"], snapshot=SNAPSHOT)
    assert [told for told in here.executed if "snapshot" in told] == ["set tidb_snapshot = %s", "set tidb_snapshot = ''"]
    assert (len(found.objects.sequences), len(found.objects.views), found.left_out) == (1, 1, ())


@pytest.mark.parametrize(
    ("version", "told"),
    [(64, None), (63, "the schema was changed"), (None, "whether one was changed while the export ran is not")],
)
def test_where_the_snapshot_cannot_be_read_a_change_of_the_schema_is_told(version: int | None, told: str | None) -> None:
    here = database()
    here.refused = {"set tidb_snapshot": DatabaseError("can not get 'tikv_gc_safe_point'")}
    found = schema_objects.collect(here.ask, ["shop.*"], snapshot=SNAPSHOT, version=version)
    assert (len(found.objects.sequences), len(found.objects.views)) == (1, 1)
    lines = [line for line in found.left_out if line.startswith("views and sequences as of the snapshot: ")]
    assert [told in line for line in lines if told] == ([True] if told else [])
    assert len(lines) == (told is not None)


def test_a_sequence_that_was_dropped_after_the_snapshot_is_left_out_by_name() -> None:
    here = database()
    rows = here.ask

    def ask(statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        if statement.startswith("show table"):
            raise DatabaseError("Table 'shop.s' doesn't exist")
        return rows(statement, parameters)

    found = schema_objects.collect(ask, ["shop.*"], snapshot=SNAPSHOT)
    assert found.objects.sequences == ()
    assert found.left_out == ("sequence shop.s: dropped after the snapshot, Table 'shop.s' doesn't exist",)


def test_a_login_that_may_not_read_a_sequence_is_told_before_the_dump() -> None:
    def ask(statement: str, parameters: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        if statement.startswith("show create sequence"):
            raise DatabaseError("denied", reason="DatabaseAccessDenied")
        return database().ask(statement, parameters)

    with pytest.raises(PermanentError, match="denied"):
        schema_objects.require_readable(ask, ["shop.*"])


def test_what_the_cluster_has_and_no_export_holds_is_named() -> None:
    here = FakeDatabase(counts={"mysql.user": 2, "information_schema.tables": 3})
    lines = schema_objects.left_out_of_cluster(here, ["test"])  # type: ignore[arg-type]
    assert lines[:2] == ["schema test, tables: 3", "users and roles, with their grants: 2"]
    assert len(schema_objects.bounded(["x" * 999] * 40)) == 13


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_dumplings_own_files_are_understood(packed: str) -> None:
    texts = {
        "a%2Eb.s-schema-sequence.sql": DUMPED,
        "far-placement-policy-create.sql": POLICY,
        "a%2Eb-schema-create.sql": "CREATE DATABASE `a.b`;",
    }
    files = {name + packed: gzip.compress(text.encode()) if packed else text.encode() for name, text in texts.items()}
    assert schema_objects.of_dump(files, files.__getitem__, "x") == SchemaObjects(
        policies=("CREATE PLACEMENT POLICY `far` FOLLOWERS=2",),
        schemas={"a.b": "CREATE DATABASE `a.b`"},
        sequences=(NamedSequence(schema="a.b", name="s", create=CREATE, last=4),),
    )


def test_a_sequence_in_a_form_that_cannot_be_read_is_refused_before_the_load() -> None:
    with pytest.raises(PermanentError, match="nothing was imported"):
        schema_objects.of_dump(["a.s-schema-sequence.sql.zst"], lambda _key: b"", "x")


def test_a_damaged_document_is_refused() -> None:
    with pytest.raises(PermanentError) as caught:
        schema_objects.of_dump([KEY], lambda _key: b'{"v": "x', "s3://b/p")
    assert caught.value.problem().reason == "SourceDamaged"


def test_views_that_cannot_be_created_are_named_with_the_cause() -> None:
    here = FakeDatabase(failures=[DatabaseError("no such table")])
    with pytest.raises(PermanentError, match=r"shop\.v; no such table") as caught:
        schema_objects.after_load(here, SchemaObjects(views=(NamedView(schema="shop", name="v", create="x"),)))  # type: ignore[arg-type]
    assert caught.value.problem().reason == "ViewsNotRestored"


def test_a_view_that_the_target_has_is_left_as_it_is() -> None:
    here = FakeDatabase(objects=[("Shop", "V", "VIEW")])
    objects = SchemaObjects(views=(NamedView(schema="shop", name="v", create="x"),))
    assert schema_objects.after_load(here, objects) == ["shop.v"]  # type: ignore[arg-type]
