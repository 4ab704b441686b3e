"""The migrations as files: numbered one by one, and never changed once they are released."""

import re

from tidepool.storage.migrations import Migration, all_migrations

FIRST_TABLES = {"users", "products", "orders", "job_results", "pool_snapshots"}


def test_migrations_are_numbered_one_by_one() -> None:
    """From 1, without a gap, in order."""
    versions = [migration.version for migration in all_migrations()]
    assert list(range(1, len(versions) + 1)) == versions
    assert versions


def test_names_are_unique() -> None:
    """Two branches that both added number 2 are noticed by the numbers; the same file twice by its name."""
    names = [migration.name for migration in all_migrations()]
    assert sorted(set(names)) == sorted(names)


def test_a_changed_text_has_another_checksum() -> None:
    """One letter is enough, so that a file which was applied cannot change unnoticed."""
    migration = Migration(1, "x", "CREATE TABLE a ()")
    assert migration.checksum == Migration(1, "x", "CREATE TABLE a ()").checksum
    assert migration.checksum != Migration(1, "x", "CREATE TABLE b ()").checksum


def test_the_first_migration_makes_the_tables_of_the_design() -> None:
    """Other programs read them."""
    assert FIRST_TABLES <= set(re.findall(r"CREATE TABLE (\w+)", all_migrations()[0].text))


def test_no_migration_ends_its_own_transaction() -> None:
    """Each commits together with its row in schema_migrations, or not at all."""
    text = "\n".join(re.sub("--.*", "", migration.text) for migration in all_migrations())
    assert [] == re.findall(r"\b(?:COMMIT|ROLLBACK|CONCURRENTLY|VACUUM)\b", text, re.IGNORECASE)
