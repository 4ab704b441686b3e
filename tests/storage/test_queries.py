"""The named queries: each is used, documented, and called with as many values as it has parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tidepool.storage.queries import Queries

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("tidepool", "worker") for path in (ROOT / package).rglob("sql/*.sql"))
TABLES = [(path.stem, ".".join(path.relative_to(ROOT).parts[:-2])) for path in FILES]
"""Each with its package."""
LOADED = re.compile(r'^(_[A-Z]+) = (?:Queries|load_queries)\("(\w+)"(?:, "([\w.]+)")?\)$', re.MULTILINE)


class Use(NamedTuple):
    """A place in Python where a query is run."""

    table: tuple[str, str]
    name: str
    values: int | None
    """How many it is given; None where a sequence is unpacked."""


def uses() -> Iterator[Use]:
    """Yield every `connection.fetch(self._sql["name"], …)` of the repositories."""
    for path in (path for file in {file.parents[1] for file in FILES} for path in file.glob("*.py")):
        text = path.read_text("utf-8")
        loads = LOADED.findall(text)
        tables = {variable: (table, package or "tidepool.storage") for variable, table, package in loads}
        for part in ast.parse(text).body:
            yield from uses_in(part, tables)


def uses_in(part: ast.stmt, tables: dict[str, tuple[str, str]]) -> Iterator[Use]:
    """Yield the uses in a class or function. There, a name such as `self._sql` may stand for `_SQL.of(schema)`."""
    names = dict(tables)
    for node in ast.walk(part):
        if isinstance(node, ast.Assign) and (table := table_of(node.value, tables)):
            names[ast.unparse(node.targets[0])] = table
    for node in ast.walk(part):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            table = names.get(ast.unparse(node.value)) or table_of(node.value, tables)
            if table:
                yield Use(table, node.slice.value, values_beside(node, part))


def table_of(node: ast.expr, tables: dict[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Return the table of `_SQL.of(schema)`; None if *node* is something else."""
    found = re.match(r"(_[A-Z]+)\.of\(", ast.unparse(node))
    return tables.get(found[1]) if found else None


def values_beside(query: ast.Subscript, part: ast.stmt) -> int | None:
    """Return how many values a query is given where it is run; None if that cannot be seen."""
    for node in ast.walk(part):
        if isinstance(node, ast.Call) and node.args and node.args[0] is query:
            return None if any(isinstance(one, ast.Starred) for one in node.args) else len(node.args) - 1
    return None


def texts(table: str, package: str) -> dict[str, str]:
    """Return the queries of a file, as they are run where the library's tables are in the schema `lib`."""
    return dict(Queries(table, package).of("lib"))


def test_every_query_is_used_and_every_used_one_exists() -> None:
    """A renamed query must not wait for its first call to be missed, nor a dead one be kept."""
    assert {(table, name) for table in TABLES for name in texts(*table)} == {(u.table, u.name) for u in uses()}


def test_every_query_is_given_as_many_values_as_it_has_parameters() -> None:
    """The driver would tell only when it is called."""
    wrong = [
        use
        for use in uses()
        if use.values is not None
        and use.values != max((int(n) for n in re.findall(r"\$(\d+)", texts(*use.table)[use.name])), default=0)
    ]
    assert [] == wrong


@pytest.mark.parametrize("table", TABLES, ids=[table for table, _ in TABLES])
def test_every_query_begins_with_a_comment(table: tuple[str, str]) -> None:
    """What it is for, or at least what its parameters are."""
    assert [] == [name for name, text in texts(*table).items() if not text.startswith("-- ")]


@pytest.mark.parametrize("table", TABLES, ids=[table for table, _ in TABLES])
def test_every_parameter_is_described(table: tuple[str, str]) -> None:
    """Its number stands in the comment, with a name and a type."""
    undescribed = [
        (name, parameter)
        for name, text in texts(*table).items()
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
    assert list(texts("results", "tidepool.storage")) == names


def test_a_name_never_becomes_other_sql() -> None:
    """It is quoted, and refused if it is none."""
    assert '"order".job_results' in texts_in("order")
    for wrong in ('x"; DROP TABLE users; --', "Tidepool", "", "pg_x", "a" * 64, "1a", "a.b", "information_schema"):
        with pytest.raises(ValueError, match="must"):
            texts_in(wrong)


def texts_in(schema: str) -> str:
    """Return a query of the ledger in *schema*."""
    return Queries("results").of(schema)["has_any"]
