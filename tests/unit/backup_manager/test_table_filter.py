"""The table filter, as dumpling and lightning read it."""

from collections.abc import Sequence

import pytest

from backup_manager.table_filter import selects
from backup_manager.tools.dumpling import DEFAULT_FILTERS


@pytest.mark.parametrize(
    ("rules", "schema", "table", "expected"),
    [
        ([], "a", "b", True),
        (["shop.*"], "shop", "o", True),
        (["shop.*"], "Shop", "O", True),
        (["shop.*"], "shopping", "o", False),
        (["shop.*", "!shop.log_*"], "shop", "log_1", False),
        (["!shop.log_*", "shop.*"], "shop", "log_1", True),
        (["s?op.o[12]"], "shop", "o2", True),
        (["s?op.o[!12]"], "shop", "o2", False),
        (["/^s.*p$/.*"], "shop", "o", True),
        (["`shop`.`o`"], "shop", "o", True),
        (['"sh.op".o'], "sh.op", "o", True),
        (DEFAULT_FILTERS, "test", "o", False),
        (DEFAULT_FILTERS, "sys", "o", True),
        (["@rules.txt"], "any", "table", True),
        (["not a rule"], "any", "table", True),
    ],
)
def test_selects(rules: Sequence[str], schema: str, table: str, expected: bool) -> None:
    assert selects(rules, schema, table) is expected
