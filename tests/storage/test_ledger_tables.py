"""The tables of `results --slowest`: nothing is cut on 80 columns, and a wide terminal shows more."""

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from tidepool.cli.jobs import _latency_table, _slowest_table

ROW: dict[str, Any] = {
    "job_id": "8c249675aea6c3cbd91661bbae767ff1",
    "function": "create_product",
    "status": "applied",
    "worker_id": "host-1-abcd",
    "finished_at": datetime(2026, 11, 25, 17, 30, tzinfo=UTC),
    "queue_us": 61_234_567,
    "batch_us": 2_000,
    "pool_wait_us": 4500,
    "db_us": 120_000,
    "run_us": 0,
    "atomic": True,
}


def drawn(table: Table, width: int) -> list[list[str]]:
    """Return the words of each line as a terminal of this width shows them."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(len(line) <= width for line in lines)
    return [line.split() for line in lines]


def test_eighty_columns_are_enough_for_a_slow_job() -> None:
    """Total and parts in milliseconds, what it was, and an id of ours on one line."""
    head, row = drawn(_slowest_table([ROW], wide=False), 80)
    assert ["total", "queue", "batch", "pool", "db", "function", "job_id"] == head
    assert ["61,361", "61,235", "2.0", "4.5", "120", "create_product", ROW["job_id"]] == row


def test_a_longer_id_goes_on_in_the_next_line() -> None:
    """Whole, to be copied; an id may have any length, and a file of commands gives its own."""
    long = "northwind-order-" + "9" * 60
    _, *lines = drawn(_slowest_table([{**ROW, "job_id": long}], wide=False), 80)
    assert long == "".join(line[-1] for line in lines)


def test_a_wide_table_has_when_where_and_how_it_ended() -> None:
    """There is room for them."""
    (head, row) = drawn(_slowest_table([ROW], wide=True), 240)
    assert {"finished_at", "worker_id", "status"} < set(head)
    assert {"host-1-abcd", "applied"} < set(row)


def test_a_plain_function_has_the_time_that_it_ran() -> None:
    """It has no batch; beside jobs of declared types it has a column of its own."""
    plain = {**ROW, "batch_us": 0, "pool_wait_us": 0, "db_us": 0, "run_us": 7_000, "atomic": False}
    head, row = drawn(_slowest_table([plain], wide=False), 80)
    assert ["total", "queue", "run", "function", "job_id"] == head
    assert ["61,242", "61,235", "7.0", "create_product", ROW["job_id"]] == row
    head, *_ = drawn(_slowest_table([plain, ROW], wide=True), 240)
    assert ["total", "queue", "batch", "pool", "database", "run"] == head[:6]


def test_the_summary_fits_too() -> None:
    """Figures of a backlog of an hour, a million jobs."""
    part = {"function": "create_product", "part": "database", "jobs": 1_234_567}
    head, row = drawn(_latency_table([{**part, **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "max_ms"), 3.6e6)}]), 80)
    assert ["function", "part", "jobs", "p50", "p95", "p99", "max"] == head
    assert ["create_product", "database", "1,234,567", *["3,600,000"] * 4] == row
