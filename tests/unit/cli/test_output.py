"""The one writer: formats, colours on a terminal alone, notes beside the answer."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest
import yaml

from cli.formats import Bytes
from cli.output import Answer, Format, Output, Table, to_yaml
from crds.contract.report import Problem

NOW = datetime(2026, 1, 31, 2, 0, tzinfo=UTC)
TABLE = Table(columns=("NAME", "WHEN", "SIZE"), rows=[("a", NOW, Bytes(5024)), ("=sum", None, None)], title="Title")
ANSWER = Answer(data={"when": NOW, "size": Bytes(1)}, parts=["text", TABLE], notes=["mind this"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(form: Format, out: io.StringIO | None = None, answer: Answer = ANSWER) -> tuple[str, str]:
    out, err = out or io.StringIO(), io.StringIO()
    Output(form, out=out, err=err).write(answer)
    return out.getvalue(), err.getvalue()


def test_a_table_is_plain_and_notes_stand_beside_it() -> None:
    out, err = written(Format.TABLE)
    assert out.splitlines() == [
        "text",
        "",
        "Title",
        "NAME   WHEN                   SIZE",
        "a      2026-01-31 02:00:00Z   5.0 kB",
        "=sum   -                      -",
    ]
    assert err == "note: mind this\n"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(data=None, parts=[Table(columns=("STATE",), rows=[("Complete",)])])
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32mComplete\x1b[0m" in written(Format.TABLE, Terminal(), answer)[0]
    assert "\x1b" not in written(Format.JSON, Terminal(), answer)[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in written(Format.TABLE, Terminal(), answer)[0]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in written(Format.TABLE, Terminal(), answer)[0]


def test_machines_get_the_data_whole() -> None:
    assert json.loads(written(Format.JSON)[0]) == {"when": "2026-01-31T02:00:00Z", "size": 1}
    assert yaml.safe_load(written(Format.YAML)[0]) == {"when": "2026-01-31T02:00:00Z", "size": 1}


def test_csv_is_the_first_table_with_raw_values_and_no_formula() -> None:
    rows = list(csv.reader(io.StringIO(written(Format.CSV)[0])))
    assert rows == [["name", "when", "size"], ["a", "2026-01-31T02:00:00Z", "5024"], ["'=sum", "", ""]]


def test_csv_holds_every_table_of_those_columns_and_what_their_titles_tell() -> None:
    first, none, second = (
        Table(columns=("NAME",), rows=rows, title=f"Schedule {name}", lead={"OF": name})
        for name, rows in (("x", [("a",), ("b",)]), ("y", []), ("z", [("c",)]))
    )
    other = Table(columns=("ELSE", "WHAT"), rows=[("1", "2")])
    orders: list[list[str | Table]] = [[first, "text", none, second, other], [none, first, second]]
    for parts in orders:
        rows = list(csv.reader(io.StringIO(written(Format.CSV, answer=Answer(data=None, parts=parts))[0])))
        assert rows == [["of", "name"], ["x", "a"], ["x", "b"], ["z", "c"]]


def test_csv_of_nothing_is_nothing() -> None:
    assert written(Format.CSV, answer=Answer(data=[], notes=["every schedule is Invalid"])) == (
        "",
        "note: every schedule is Invalid\n",
    )


def test_an_empty_table_says_so() -> None:
    assert (
        written(Format.TABLE, answer=Answer(data=[], parts=[Table(columns=("A",), rows=[], empty="nothing")]))[0] == "nothing\n"
    )


def test_kubernetes_objects_become_documents_that_apply() -> None:
    objects = [{"apiVersion": "v1", "kind": "A", "text": "a\nb"}, {"apiVersion": "v1", "kind": "B"}]
    assert list(yaml.safe_load_all(to_yaml(objects))) == objects
    assert to_yaml(objects).startswith("---\n")


def test_an_error_is_two_lines() -> None:
    err = io.StringIO()
    Output(out=io.StringIO(), err=err).error(Problem(reason="X", message="it broke", hint="mend it"))
    assert err.getvalue() == "error: it broke\n  mend it\n"


def test_bars_draw_on_a_terminal() -> None:
    out = Terminal()
    with Output(out=out, err=io.StringIO()).bars() as bars:
        bars.show("Backup shop/a", 10, "Running 10%")
        bars.show("Backup shop/a", 100, "Complete")
    assert "Backup shop/a" in out.getvalue()
    assert "Complete" in out.getvalue()
