"""The tools' text log: error levels, progress, operations."""

import pytest

from backup_manager.tools.tidb_log import fields, is_error_line, operation, progress, tokens

HEAD = "[2026/11/23 05:22:38.172 +00:00] [INFO] [progress.go:176] [progress] "


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ('[step="Full Restore"] [progress=10%]', ("Full Restore", 10.0)),
        ('[step="Full Restore"] [progress=10.9%] [count="40 / 40"]', ("Full Restore", 10.9)),
        ("[step=Checksum] [progress=50.00%]", ("Checksum", 50.0)),
        ('[step="Full Backup"] [progress=?%]', ("Full Backup", None)),
        ('[step="Full Backup"] [progress=%]', ("Full Backup", None)),
    ],
)
def test_progress_lines(rest: str, expected: tuple[str, float | None]) -> None:
    told = progress(HEAD + rest)
    assert told is not None
    assert (told.step, told.percent) == expected


@pytest.mark.parametrize("line", ["", HEAD, '[progress] [step="Full Restore"]', '{"message":"progress","step":"x"}'])
def test_other_lines_tell_no_progress(line: str) -> None:
    assert progress(line) is None


def test_the_remaining_time_is_read() -> None:
    told = progress(HEAD + '[step="Full Restore"] [progress=50%] [elapsed=2.5s] [remaining=1m2s]')
    assert told is not None
    assert told.remaining == "1m2s"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[x] [ERROR] [y]", True),
        ("[x] [FATAL] [y]", True),
        ("[x] [ panic ] [y]", True),
        ("[x] [WARN] [y]", False),
        ('{"level":"ERROR"}', False),
        ('[x] [INFO] ["[ERROR] inside a quoted text"]', False),
        ("", False),
        ("[ERROR", False),
    ],
)
def test_error_lines(line: str, expected: bool) -> None:
    assert is_error_line(line) is expected


def test_tokens_keep_brackets_and_escapes_inside_quotes() -> None:
    assert list(tokens(r'[a="x]y"] [b="q\"]q"] [c]')) == [r'a="x]y"', r'b="q\"]q"', "c"]


def test_fields_are_unquoted() -> None:
    assert fields(r'[total-kv=100] ["finished rows"=3] [error="a \"b\"\nc"]') == {
        "total-kv": "100",
        "finished rows": "3",
        "error": 'a "b"\nc',
    }


def test_an_operation_is_read_with_its_times() -> None:
    told = operation(
        "[2026/11/23 05:22:38.172 +00:00] [INFO] [x.go:1] [BR operation started] [operation_id=abc] "
        '[command="log truncate [manual]"] [operation_started_at=2026-11-23T05:22:38Z]'
    )
    assert told is not None
    assert (told.operation_id, told.command) == ("abc", "log truncate [manual]")
    assert told.started_at == "2026-11-23T05:22:38Z"
    assert told.observed_at.startswith("2026-11-23T05:22:38")


@pytest.mark.parametrize(
    "line",
    [
        '{"message":"BR operation started","operation_id":"abc"}',
        "[INFO] [BR operation started]",
        '[INFO] [BR operation started] [operation_id=""]',
        '[INFO] [note="BR operation started"] [operation_id=abc]',
        "[INFO] [Encountered lock] [operation_id=abc]",
    ],
)
def test_what_is_no_operation_is_ignored(line: str) -> None:
    assert operation(line) is None
