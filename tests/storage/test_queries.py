"""The named queries: each is used, documented, and called with as many values as it has parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tidepool.storage import queries

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("tidepool", "worker") for path in (ROOT / package).rglob("sql/*.sql"))
TABLES = [(path.stem, ".".join(path.relative_to(ROOT).parts[:-2])) for path in FILES]
"""Each with its package."""
LOADED = re.compile(r'^(_[A-Z]+) = (?:queries\.load|load_queries)\("(\w+)"(?:, "([\w.]+)")?\)$', re.MULTILINE)


class Use(NamedTuple):
    """A place in Python where a query is run."""

    table: tuple[str, str]
    name: str
    values: int | None
    """How many it is given; None where a sequence is unpacked."""


def uses() -> Iterator[Use]:
    """Yield every `connection.fetch(_SQL["name"], …)` of the repositories."""
    for path in (path for file in {file.parents[1] for file in FILES} for path in file.glob("*.py")):
        text = path.read_text("utf-8")
        loads = LOADED.findall(text)
        tables = {variable: (table, package or "tidepool.storage") for variable, table, package in loads}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Subscript):
                subscript = node.args[0]
                if isinstance(subscript.value, ast.Name) and (table := tables.get(subscript.value.id)):
                    assert isinstance(subscript.slice, ast.Constant)
                    unpacks = any(isinstance(argument, ast.Starred) for argument in node.args)
                    yield Use(table, subscript.slice.value, None if unpacks else len(node.args) - 1)


def test_every_query_is_used_and_every_used_one_exists() -> None:
    """A renamed query must not wait for its first call to be missed, nor a dead one be kept."""
    assert {(table, name) for table in TABLES for name in queries.load(*table)} == {(u.table, u.name) for u in uses()}


def test_every_query_is_given_as_many_values_as_it_has_parameters() -> None:
    """The driver would tell only when it is called."""
    wrong = [
        use
        for use in uses()
        if use.values is not None
        and use.values != max((int(n) for n in re.findall(r"\$(\d+)", queries.load(*use.table)[use.name])), default=0)
    ]
    assert [] == wrong


@pytest.mark.parametrize("table", TABLES, ids=[table for table, _ in TABLES])
def test_every_query_begins_with_a_comment(table: tuple[str, str]) -> None:
    """What it is for, or at least what its parameters are."""
    assert [] == [name for name, text in queries.load(*table).items() if not text.startswith("-- ")]


@pytest.mark.parametrize("table", TABLES, ids=[table for table, _ in TABLES])
def test_every_parameter_is_described(table: tuple[str, str]) -> None:
    """Its number stands in the comment, with a name and a type."""
    undescribed = [
        (name, parameter)
        for name, text in queries.load(*table).items()
        for parameter in set(re.findall(r"\$\d+", re.sub("^--.*", "", text, flags=re.MULTILINE)))
        if not re.search(rf"^--.*{re.escape(parameter)} \w+", text, re.MULTILINE)
    ]
    assert [] == undescribed


def test_the_files_begin_with_a_name() -> None:
    """Text before the first name would belong to no query."""
    assert [] == [path for path in FILES if not path.read_text("utf-8").startswith("-- name: ")]


def test_names_are_unique_within_a_table() -> None:
    """`load` refuses a file with twins; here is one, so that the refusal itself is tried."""
    text = (ROOT / "tidepool" / "storage" / "sql" / "results.sql").read_text("utf-8")
    names = re.findall(r"^-- name: (\w+)$", text, re.MULTILINE)
    assert sorted(set(names)) == sorted(names)
    assert list(queries.load("results")) == names
