"""``make demo``, with the small tables alone."""

import io
import os

import pytest
from rich.console import Console

from sandbox.demo import data as flights
from sandbox.demo import main as demo

pytestmark = pytest.mark.e2e


def test_the_demo_keeps_its_promises() -> None:
    seen = io.StringIO()
    tables = [table for table in flights.TABLES if table.name in {"airlines", "airports", "planes"}]
    code = demo.main(Console(file=seen), name=f"demo-{os.getpid()}", tables=tables)
    told = seen.getvalue()
    assert code == 0, told
    assert told.count("│ equal") == len(tables) * len(("dumpling, lightning", "br, S3", "br, a volume"))
    for step in ("dumpling to S3", "lightning from S3", "refused", "br to S3", "br from S3", "br to a volume", "data cleaned"):
        assert f"done {step}" in told or step in told, step
