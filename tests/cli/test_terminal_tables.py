"""Tables on terminals of any width: nothing is cut without a word."""

import io
from typing import Any

import pytest
from rich.console import Console

from tidepool.cli import jobs as ledger_commands
from tidepool.cli import pool as pool_command
from tidepool.cli import terminal

ROW: dict[str, Any] = {
    "job_id": "northwind-order-" + "x" * 41,
    "function": "place_order",
    "error": "words " * 20,
    "n": 7,
}


@pytest.mark.parametrize("width", [20, 40, 80, 120, 2000])
def test_every_value_is_there_at_every_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """As columns, or as records where they do not fit: every title, the whole id, all words."""
    said = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda: Console(file=said, width=width, markup=False, highlight=False))
    terminal.print_rows([ROW, ROW], tuple(ROW), as_json=False, empty="")
    text = "".join(said.getvalue().split())
    assert 2 == text.count(ROW["job_id"])
    assert 40 <= text.count("words")
    assert all(title in text for title in ROW)


def test_figures_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 40 columns they become records, and titles stay with their figures."""
    table = terminal.figures_table(("function", "acquires/s", "wait p50", "wait p95", "in use"), words=("function",))
    table.add_row("place_order", "12,345", "1.5", "22.5", "3.25")
    said = io.StringIO()
    Console(file=said, width=40).print(table)
    assert "acquires/s  12,345" in said.getvalue()


@pytest.mark.parametrize("width", [40, 80, 119, 120, 149, 150, 2000])
def test_columns_that_a_narrow_terminal_lacks_are_named(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Each title of `pool` and of `results --slowest` is a column, or in the line about what is left out."""
    said = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda: Console(file=said, width=width, markup=False, highlight=False))
    columns = (*pool_command._PROCESSES, *pool_command._MINUTES)
    row: dict[str, Any] = {name: 1 for _, name in columns} | {"worker_id": ROW["job_id"]}
    terminal.console().print(pool_command._drawn({"processes": [row], "minutes": [row]}, width))
    parts: dict[str, Any] = dict.fromkeys(ledger_commands._PARTS, 1) | dict.fromkeys(ledger_commands._WIDE_WORDS, "x")
    ledger_commands._print_by_part([{**parts, "atomic": True}], [])
    text = "".join(said.getvalue().split())
    titles = [title for title, _ in columns] + list(ledger_commands._WIDE_WORDS)
    assert [] == [title for title in titles if title.replace(" ", "") not in text]
    assert (width < 150) + (width < 120) == text.count("notshown")
