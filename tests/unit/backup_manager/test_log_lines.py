"""A tool's log in blocks: where a block ends makes no difference to what is heard, masked or kept."""

import os
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_manager import log_lines
from backup_manager.masking import Masker
from backup_manager.tools import br, lightning
from backup_manager.tools.process import Stream

SECRET = "S3cr3t/+value=="
PIECES = (
    '[2026/11/23 19:05:07.525 +00:00] [INFO] [client.go:184] ["This round of backup starts..."] [round=1]',
    '[2026/11/23 19:05:08.000 +00:00] [INFO] [progress.go:176] [progress] [step="Full Backup"] [progress=42%] [remaining=2s]',
    "[2026/11/23 19:05:09.000 +00:00] [INFO] [progress.go:176] [progress] [step=Checksum] [progress=?%]",
    '[2026/11/23 19:05:09.100 +00:00] [INFO] [collector.go:77] ["Full Backup success summary"] [total-kv=100] [BackupTS=47]',
    "[2026/11/23 19:05:09.200 +00:00] [INFO] [x.go:1] [BR operation started] [operation_id=a]",
    "[2026/11/23 19:05:09.300 +00:00] [INFO] [x.go:1] [BR operation started] [operation_id=b] [command=c]",
    f"[2026/11/23 19:05:09.400 +00:00] [INFO] [x.go:2] [secret-access-key={SECRET}] [access-key=AK]",
    f"the key is {SECRET}, the user root:pw@tcp(host:4000)/mysql",
    "tidb lightning exit successfully",
    "[2026/11/23 19:05:09.500 +00:00] [INFO] [x.go:3] [progress] [total=12.3%] [remaining=40s]",
    "Übergröße ✓ \r in the middle",
    "ends with\r",
    "",
)
LOGS = st.lists(st.sampled_from(PIECES) | st.text(max_size=40).filter(lambda text: "\n" not in text), max_size=12)


@contextmanager
def descriptor(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        yield file.fileno()


def heard_in(blocks: list[bytes], *, look_within: int) -> br.BrOutput:
    heard = br.BrOutput(look_within=look_within)
    for block in blocks:
        for line in heard.select(Stream.OUT, block):
            heard.line(Stream.OUT, line.decode("utf-8", "replace"))
    return replace(heard, look_within=0)


@settings(max_examples=300, deadline=None)
@given(lines=LOGS, size=st.integers(1, 300), ended=st.booleans())
def test_where_a_block_ends_makes_no_difference(lines: list[str], size: int, ended: bool) -> None:
    text = "\n".join(lines) + "\n" * ended
    data = text.encode("utf-8")
    with descriptor(data) as number:
        blocks = list(log_lines.read(number, size=size))
    assert b"".join(blocks) == data
    assert all(block.endswith(b"\n") for block in blocks[:-1]), "a line was cut"
    assert heard_in(blocks, look_within=0) == heard_in([data], look_within=0)
    masked = "\n".join(Masker([SECRET]).block(block.removesuffix(b"\n")) for block in blocks)
    assert masked == Masker([SECRET]).block(data.removesuffix(b"\n"))


@settings(max_examples=300, deadline=None)
@given(lines=LOGS)
def test_a_block_is_masked_and_heard_as_its_lines_one_by_one_are(lines: list[str]) -> None:
    mask, data = Masker([SECRET]), "\n".join(lines).encode("utf-8")
    one_by_one = [line.decode("utf-8", "replace") for line in data.split(b"\n")]
    assert mask.block(data) == "\n".join(mask(line) for line in one_by_one)
    br_heard = br.BrOutput()
    lightning_heard, selected = lightning.LightningOutput(), lightning.LightningOutput()
    for line in one_by_one:
        br_heard.line(Stream.OUT, line.rstrip("\r"))
        lightning_heard.line(line.rstrip("\r"))
    for found in selected.select(Stream.OUT, data):
        selected.line(found.decode("utf-8", "replace"))
    marked = heard_in([data], look_within=0)
    assert (marked.progress, marked.operations, marked.summary) == (br_heard.progress, br_heard.operations, br_heard.summary)
    assert selected == lightning_heard


def test_a_line_is_handed_over_before_the_next_one_is_complete() -> None:
    reading, writing = os.pipe()
    try:
        blocks = log_lines.read(reading)
        os.write(writing, b"one\ntwo, no")
        assert next(blocks) == b"one\n"
        os.write(writing, b"t yet\nthree")
        assert next(blocks) == b"two, not yet\n"
        os.close(writing)
        assert list(blocks) == [b"three"]
    finally:
        os.close(reading)


@pytest.mark.parametrize("size", [1, 7, 64, 500, 5000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\ny\n", b"\n\ny\nz", b"\n" + b"w" * 1000 + b"\ny\n"])
def test_of_a_line_without_end_the_beginning_alone_is_handed_over(size: int, end: bytes) -> None:
    with descriptor(b"a\n" + b"x" * 1000 + end) as number:
        blocks = list(log_lines.read(number, size=size, longest=256))
    assert max(len(block) for block in blocks) < 256 + 2 * size
    cut = [block for block in blocks if isinstance(block, log_lines.Cut)]
    whole = b"".join(block for block in blocks if not isinstance(block, log_lines.Cut))
    if size < 500:  # otherwise the end is there before the line is found too long
        assert [set(block) for block in cut] == [{ord("x")}] + [{ord("w")}] * end.count(b"w" * 1000)
        assert whole == b"a\n" + end[1:].replace(b"w" * 1000 + b"\n", b"")
    else:
        assert whole.startswith(b"a\n")


def test_a_pipe_with_an_endless_line_is_emptied_and_the_next_line_is_heard() -> None:
    reading, writing = os.pipe()
    blocks = log_lines.read(reading)

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            for _ in range(20):
                pipe.write(b"x" * log_lines.LONGEST)
            pipe.write(b"\nnext\n")

    written = threading.Thread(target=write)
    written.start()
    tracemalloc.start()
    try:
        found = list(blocks)
        assert tracemalloc.get_traced_memory()[1] < 10 * log_lines.LONGEST
    finally:
        tracemalloc.stop()
        written.join()
        os.close(reading)
    assert [type(block) for block in found] == [log_lines.Cut, bytes]
    assert found[1] == b"next\n"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", []),
        (b"needle", [b"needle"]),
        (b"a\nneedle needle\r\nb pin\n\nneedle", [b"needle needle", b"b pin", b"needle"]),
        (b"need\nle\n", []),
    ],
)
def test_lines_that_hold_a_needle(block: bytes, expected: list[bytes]) -> None:
    assert log_lines.holding(block, [b"pin", b"needle"]) == expected


def test_help_instead_of_work_is_heard_at_the_start_alone() -> None:
    usage = b'Usage:\n  br log [command]\nUse "br log [command] --help" for more information about a command.\n'
    assert heard_in([usage], look_within=br.BrOutput().look_within).usage
    assert not heard_in([usage], look_within=0).usage


def test_a_run_that_is_asked_for_an_answer_looks_at_every_line() -> None:
    heard, answer = br.BrOutput(asked=True, look_within=0), b'[{"name":"t","status":"Normal"}]'
    for line in heard.select(Stream.OUT, b"[2026/11/23] [INFO]\n" + answer + b"\n"):
        heard.line(Stream.OUT, line.decode())
    assert heard.document == answer.decode()
