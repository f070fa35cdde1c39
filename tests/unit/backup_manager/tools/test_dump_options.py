"""The user's options of dumpling: what they leave out, and which are refused before a dump."""

import pytest

from backup_manager.errors import UsageError
from backup_manager.tools import dump_options


def options(*words: str) -> dump_options.DumpOptions:
    return dump_options.read({"dumpling": {"options": list(words)}}, ())


def test_views_and_sequences_are_exported_by_default_and_dumpling_is_not_told() -> None:
    assert options("--no-views=false", "--no-sequences=false", "-F", "1MiB") == dump_options.DumpOptions(words=["-F", "1MiB"])
    assert list(dump_options.read({}, ("--rows=1",)).words) == ["--rows=1"]


@pytest.mark.parametrize(
    ("words", "views", "sequences", "schemas"),
    [
        (["--no-views"], False, True, True),
        (["-W"], False, True, True),
        (["-W=false"], True, True, True),
        (["--no-sequences=true"], True, False, True),
        (["--no-sequences", "--no-sequences=false"], True, True, True),
        (["--no-schemas"], False, False, False),
        (["-m"], False, False, False),
    ],
)
def test_the_users_options_keep_their_meaning(words: list[str], views: bool, sequences: bool, schemas: bool) -> None:
    found = options(*words)
    assert (found.views, found.sequences, found.schemas) == (views, sequences, schemas)


@pytest.mark.parametrize(
    "word",
    [
        "--sql=select 1",
        "-Sselect 1",
        "-o/x",
        "--output=/x",
        "--output-filename-template={{.Table}}",
        "--csv-separator=;",
        "--csv-delimiter='",
        "--csv-null-value=",
        "--csv-line-terminator=x",
        "--csv-output-dialect=redshift",
        "--no-header",
        "--escape-backslash=false",
        "--logfile=x",
        "-Lx",
        "--no-views=maybe",
    ],
)
def test_an_option_that_no_import_could_follow_is_refused_before_the_dump(word: str) -> None:
    with pytest.raises(UsageError, match=r"spec\.dumpling\.options") as caught:
        options("--threads=4", word)
    assert caught.value.hint
