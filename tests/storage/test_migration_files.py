"""The migrations as files: numbered one by one, and never changed once they are released."""

import re
from pathlib import Path

import pytest

from tidepool.storage.migrator import Migration, MigrationError, Migrations
from worker import app

TABLES = {
    "tidepool": {
        *("job_results", "pool_snapshots", "pool_processes", "pool_events", "db_snapshots"),
        *("retention", "turns", "job_outbox"),
    },
    "service": {"users", "products", "orders"},
}


def package(folder: Path, files: dict[str, str]) -> str:
    """Make a package with these migrations; returns its name."""
    (folder / "others" / "migrations").mkdir(parents=True)
    for name, text in files.items():
        (folder / "others" / "migrations" / name).write_text(text)
    return "others"


def test_the_library_comes_first() -> None:
    """Each set from 1 on, without a gap."""
    assert [
        *("tidepool/0001_ledger", "tidepool/0002_pool_history", "tidepool/0003_housekeeping"),
        "tidepool/0004_outbox",
        "service/0001_tables",
    ] == [str(migration) for migration in app.migrations.all]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"0001_a.sql": "", "0003_b.sql": "-- older processes: go on"},
            r"others are not numbered one by one: \[1, 3\]",
        ),
        ({"0001_a.sql": "", "0001_b.sql": ""}, r"others are not numbered one by one: \[1, 1\]"),
        ({"0001_a.sql": "", "0002_b.sql": "SELECT 1"}, "migration shop/0002_b has no line `-- older processes"),
    ],
)
def test_files_that_cannot_be_right_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], words: str
) -> None:
    """Two branches that both added number 2 are noticed by the numbers."""
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MigrationError, match=words):
        _ = Migrations(shop=package(tmp_path, files)).all


def test_a_changed_text_has_another_checksum() -> None:
    """One letter is enough, so that a file which was applied cannot change unnoticed."""
    migration = Migration("shop", 1, "x", "CREATE TABLE a ()")
    assert migration.checksum == Migration("shop", 1, "x", "CREATE TABLE a ()").checksum
    assert migration.checksum != Migration("shop", 1, "x", "CREATE TABLE b ()").checksum


def test_each_set_makes_its_own_tables() -> None:
    """Those of the design, which other programs read; the library knows none of the service's."""
    made = {name: set[str]() for name in TABLES}
    for migration in app.migrations.all:
        made[migration.set_name] |= set(re.findall(r"CREATE TABLE (?:\{schema\}|public)\.(\w+)", migration.text))
    assert TABLES == made


def test_no_migration_ends_its_own_transaction() -> None:
    """Each commits together with its row in tidepool_migrations, or not at all."""
    text = "\n".join(re.sub("--.*", "", migration.text) for migration in app.migrations.all)
    assert [] == re.findall(r"\b(?:COMMIT|ROLLBACK|CONCURRENTLY|VACUUM)\b", text, re.IGNORECASE)
