"""dumpling's command line and what it leaves."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from backup_manager.tidb.connection import Access, TlsFiles
from backup_manager.tools import dumpling

ACCESS = Access(host="db", port=4001, user="u", password="p w")
OUTPUT = ["dumpling", "--output=s3://b/p"]


def argv(spec: dict[str, Any], access: Access = ACCESS) -> list[str]:
    return dumpling.argv(
        "dumpling",
        access=access,
        output="s3://b/p",
        storage_flags=["--s3.region=r"],
        rules=dumpling.filters(spec),
        words=dumpling.options(spec).words,
        status_port=81,
    )


def test_the_whole_line_with_defaults() -> None:
    assert argv({}) == [
        *OUTPUT,
        "--s3.region=r",
        "--host=db",
        "--port=4001",
        "--user=u",
        "--password=p w",
        "--status-addr=127.0.0.1:81",
        "--loglevel=debug",
        "--filter",
        "*.*",
        "--filter",
        "!/^(mysql|test|INFORMATION_SCHEMA|PERFORMANCE_SCHEMA|METRICS_SCHEMA|INSPECTION_SCHEMA)$/.*",
        "--filter",
        "!lightning_task_info.*",
        "--threads=16",
        "--rows=10000",
    ]


@pytest.mark.parametrize(("spec_filter", "dumpling_filter", "options"), list(product([False, True], repeat=3)))
def test_precedence_of_filters_and_options(spec_filter: bool, dumpling_filter: bool, options: bool) -> None:
    spec: dict[str, Any] = {"dumpling": {}}
    if spec_filter:
        spec["tableFilter"] = ["a.*"]
    if dumpling_filter:
        spec["dumpling"]["tableFilter"] = ["b.*"]
    if options:
        spec["dumpling"]["options"] = ["--threads=2"]
    line = argv(spec)
    chosen = [line[i + 1] for i, item in enumerate(line) if item == "--filter"]
    expected = ["a.*"] if spec_filter else ["b.*"] if dumpling_filter else list(dumpling.DEFAULT_FILTERS)
    assert chosen == expected
    assert ("--threads=2" in line, "--rows=10000" in line) == (options, not options)


@pytest.mark.parametrize(("verify", "ca"), [(True, True), (False, False)])
def test_tls_files(verify: bool, ca: bool) -> None:
    line = argv({}, Access(host="db", tls=TlsFiles(folder=Path("/tls"), verify=verify)))
    assert ("--ca=/tls/ca.crt" in line) is ca
    assert line[-2:] == ["--cert=/tls/tls.crt", "--key=/tls/tls.key"]
    assert not any(item.startswith("--password") for item in line)


METADATA = (
    "Started dump at: 2026-11-23 05:11:38\nSHOW MASTER STATUS:\n\tLog: tidb-binlog\n\tPos: 470656142251917312\n\tGTID:\n\n"
)


def test_metadata_whole_and_unfinished() -> None:
    assert dumpling.metadata(METADATA + "Finished dump at: x") == dumpling.Metadata(
        commit_ts="470656142251917312", finished=True
    )
    assert not dumpling.metadata(METADATA).finished


@pytest.mark.parametrize("text", ["", "Started dump at: x\n", "\tPos:\n", "\tPos: 1: 2\n"])
def test_metadata_without_a_position_is_an_error(text: str) -> None:
    with pytest.raises(dumpling.CommitTsError):
        dumpling.metadata(text)


METRICS = """# HELP dumpling_dump_finished_size counter
dumpling_dump_estimate_total_rows 1000
dumpling_dump_finished_rows{} 250
dumpling_dump_finished_size 1.048576e+06
go_goroutines 12
"""


def test_metrics() -> None:
    told = dumpling.metrics(METRICS)
    assert told == dumpling.Metrics(size=1048576, rows=250, estimated_rows=1000)
    assert told is not None
    assert told.percent == 25.0
    assert dumpling.Metrics(size=1, rows=5000, estimated_rows=1000).percent == 99.0
    assert dumpling.Metrics(size=1, rows=5, estimated_rows=0).percent is None


@pytest.mark.parametrize(
    "text", ["", "go_goroutines 12\n", "dumpling_dump_finished_rows NaN\ndumpling_dump_finished_size NaN\n"]
)
def test_metrics_that_are_not_there_yet(text: str) -> None:
    assert dumpling.metrics(text) is None


def test_what_a_folder_holds() -> None:
    keys = [
        "metadata",
        "shop-schema-create.sql",
        "empty-schema-create.sql.gz",
        "shop.o-schema.sql",
        "shop.o.000000001.sql",
        "shop.csv.0000000010000.csv.gz",
        "shop.v-schema-view.sql",
    ]
    assert dumpling.schemas(keys) == {"shop", "empty"}
    assert dumpling.tables(keys) == {("shop", "o"), ("shop", "csv")}
    assert [key for key in keys if not dumpling.is_dump_file(key)] == ["metadata"]
