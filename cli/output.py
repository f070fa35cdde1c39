"""The one place that writes to the terminal. A command returns an :class:`Answer`; what it looks like is decided here.

``table`` is for people: plain columns, colours on a terminal alone. ``json`` and ``yaml`` carry :attr:`Answer.data` whole,
``csv`` the first table and those of the same columns. Notes go to stderr, so that stdout can be piped.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import orjson
import yaml

from cli.formats import when
from crds.contract.report import Problem

if TYPE_CHECKING:
    from rich.progress import Progress

GAP: Final = "   "


class Format(StrEnum):
    """Value of ``-o``."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows for people. A cell that is None is shown as ``-``. *lead* is what the title says, as columns: csv has no titles."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    empty: str = ""
    lead: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command found: *data* for machines, *parts* (text and tables) for people, *notes* beside both."""

    data: Any
    parts: Sequence[str | Table] = ()
    notes: Sequence[str] = ()
    exit_code: int = 0


class Bars(Protocol):
    """Progress on a terminal, by name."""

    def show(self, name: str, percent: float | None, text: str) -> None:
        """Where *name* stands."""


_STYLES: Final[Mapping[str, str]] = {
    "Complete": "green",
    "keep": "green",
    "OK": "green",
    "ok": "green",
    "Running": "cyan",
    "Waiting": "yellow",
    "RetryFailed": "yellow",
    "later": "yellow",
    "WARNING": "yellow",
    "skipped": "yellow",
    "Invalid": "red",
    "Failed": "red",
    "FAILED": "red",
    "delete": "red",
    "broken": "red",
}


class Output:
    """Writes answers in one format."""

    def __init__(self, form: Format = Format.TABLE, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.format = form
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self.terminal and "NO_COLOR" not in os.environ

    def write(self, answer: Answer) -> None:
        """Write *answer* whole."""
        match self.format:
            case Format.JSON:
                self._say(orjson.dumps(answer.data, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z, default=str).decode())
            case Format.YAML:
                self._say(to_yaml(answer.data).rstrip())
            case Format.CSV:
                self._say(_csv([part for part in answer.parts if isinstance(part, Table)]).rstrip())
            case Format.TABLE:
                self._say("\n\n".join(text for part in answer.parts if (text := self._text(part))))
        for note in answer.notes:
            self.note(note)

    def note(self, text: str) -> None:
        """A line beside the answer."""
        self._err.write(f"{self._styled('note:', 'yellow')} {text}\n")
        self._err.flush()

    def error(self, problem: Problem) -> None:
        """Why there is no answer, and what to do."""
        self._err.write(f"{self._styled('error:', 'red')} {problem.message}\n")
        if problem.hint:
            self._err.write(f"  {problem.hint}\n")
        self._err.flush()

    def line(self, text: str) -> None:
        """One line now, of a command that goes on."""
        self._say(text)

    @contextmanager
    def bars(self) -> Iterator[Bars]:
        """Progress bars, on a terminal."""
        from rich.console import Console  # noqa: PLC0415  (only a terminal needs it)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        columns = (TextColumn("{task.fields[name]}"), BarColumn(), TextColumn("{task.fields[words]}"))
        with Progress(*columns, console=Console(file=self._out), transient=False) as progress:
            yield _RichBars(progress)

    def _say(self, text: str) -> None:
        if text:
            self._out.write(text + "\n")
            self._out.flush()

    def _text(self, part: str | Table) -> str:
        if isinstance(part, str):
            return part.rstrip()
        if not part.rows:
            return part.empty
        head = f"{self._styled(part.title, 'bold')}\n" if part.title else ""
        return head + "\n".join(self._lines(part))

    def _lines(self, table: Table) -> Iterator[str]:
        rows = [[_cell(value) for value in row] for row in table.rows]
        widths = [max(len(row[index]) for row in [list(table.columns), *rows]) for index in range(len(table.columns))]
        yield self._styled(
            GAP.join(name.ljust(width) for name, width in zip(table.columns, widths, strict=True)).rstrip(), "bold"
        )
        for row in rows:
            # Padded before it is coloured: escape sequences have no width.
            cells = [self._styled(text.ljust(width), _STYLES.get(text, "")) for text, width in zip(row, widths, strict=True)]
            yield GAP.join(cells).rstrip()

    def _styled(self, text: str, style: str) -> str:
        codes = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
        return f"\x1b[{codes[style]}m{text}\x1b[0m" if self._colours and style else text


class _RichBars:
    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def show(self, name: str, percent: float | None, text: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task("", total=100, name=name, words=text)
        self._progress.update(self._tasks[name], completed=percent or 0, words=text)


class _Dumper(yaml.SafeDumper):
    """Lists indented under their key, long texts as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Never indentless."""
        super().increase_indent(flow, False)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def to_yaml(data: Any) -> str:
    """*data* as YAML in the order it was built; a list of Kubernetes objects becomes documents for ``kubectl apply``."""
    plain = orjson.loads(orjson.dumps(data, option=orjson.OPT_UTC_Z, default=str))
    options: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "width": 120, "allow_unicode": True}
    if isinstance(plain, list) and plain and all(isinstance(item, dict) and "apiVersion" in item for item in plain):
        documents: str = yaml.dump_all(plain, explicit_start=True, **options)
        return documents
    text: str = yaml.dump(plain, **options)
    return text


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return " ".join((when(value) if isinstance(value, datetime) else str(value)).split())


def _csv(tables: Sequence[Table]) -> str:
    if not tables:  # nothing could be told; the notes say why
        return ""
    columns = tables[0].columns
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(name.lower().replace(" ", "_") for name in (*tables[0].lead, *columns))
    for table in tables:
        if table.columns == columns:
            writer.writerows([_plain(value) for value in (*table.lead.values(), *row)] for row in table.rows)
    return buffer.getvalue()


def _plain(value: object) -> str | int:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, int):
        return int(value)
    text = "" if value is None else str(value)
    # A spreadsheet would run a cell that begins like a formula; names and messages are others' words.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text
