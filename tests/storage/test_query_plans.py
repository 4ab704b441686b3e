"""The plans that PostgreSQL keeps for the named queries, made when the tables are empty: the worst time to make one."""

import re
from typing import Any

import pytest

from tidepool.storage.queries import Queries

TABLES = {"results": "tidepool.storage", **dict.fromkeys(("users", "products", "orders"), "worker.tables")}
"""Each with its package."""
BATCHED = [
    (table, name)
    for table, package in TABLES.items()
    for name, text in Queries(table, package).of("public").items()
    if re.search(r"\[\]|jsonb_", text) and not re.search(r"\$\d::\w+\[\] IS NULL OR", text)
]


def test_the_queries_that_take_a_batch_are_found() -> None:
    """An empty list would make the next test mean nothing."""
    assert {("results", "lookup"), ("results", "finished"), ("users", "lock"), ("orders", "place")} <= set(BATCHED)


@pytest.mark.parametrize(("table", "name"), BATCHED, ids=[f"{table}.{name}" for table, name in BATCHED])
async def test_no_kept_plan_compares_each_row_with_each_value_of_a_batch(
    table: str, name: str, connection: Any
) -> None:
    """A worker's connections live for hours: a plan of an empty table would be used on a million rows.

    Quadratic are a scan that looks through an array for each row, and a nested loop with a condition of its own.
    """
    text = Queries(table, TABLES[table]).of("public")[name]
    values = ", ".join(["NULL"] * len(set(re.findall(r"\$\d", re.sub("--.*", "", text)))))
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE kept AS {text}")
    plan = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE kept ({values})")]
    quadratic = [line for line in plan if re.search(r"Join Filter:|Filter:.*= ANY \(\(?\$", line)]
    assert [] == quadratic, "\n".join(plan)
