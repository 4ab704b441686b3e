"""How long rows are kept is the database's matter: one worker that is set shorter deletes nobody else's."""

from typing import Any

import pytest
from factories import a_job, a_user

from tidepool.health.pruner import Pruner
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from worker.jobs import JOBS


@pytest.fixture
async def old_row(pool: Pool, connection: Any) -> None:
    """Have a ledger row that is ten days old."""
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(a_user("ada"), "a")])
    await connection.execute("UPDATE job_results SET finished_at = now() - interval '10 days'")


def a_pruner(side: SideConnection, days: float) -> Pruner:
    """Return one that is set to keep rows for so long."""
    return Pruner(side, results_keep_days=days, snapshots_keep_days=days)


@pytest.mark.usefixtures("old_row")
async def test_the_longest_retention_wins(side: SideConnection, logs: list[Any]) -> None:
    """Also while who wants it is away; who wants less says so once for each kind of row."""
    await a_pruner(side, 30).run_once()
    short = a_pruner(side, 2)

    assert [0, 0] == [(await short.run_once()).results for _ in range(2)]

    said = [(line["rows"], line["own_days"], line["kept_days"]) for line in logs if line["event"] == "retention.longer"]
    assert [("results", 2, 30), ("snapshots", 2, 30)] == sorted(said)


@pytest.mark.usefixtures("old_row")
async def test_a_wish_lapses_a_week_after_it_was_last_seen(side: SideConnection, connection: Any) -> None:
    """So that retention can be made shorter; to delete the wish makes it so at once."""
    await a_pruner(side, 30).run_once()
    await connection.execute("UPDATE retention SET wanted_at = now() - interval '8 days'")
    assert 1 == (await a_pruner(side, 2).run_once()).results


@pytest.mark.usefixtures("old_row")
@pytest.mark.parametrize(
    "wish", ["('audits', 5, now())", "('results', 'infinity', now())", "('results', 'nan', now())"]
)
async def test_another_versions_wish_stops_no_pruning(side: SideConnection, connection: Any, wish: str) -> None:
    """Of a kind of row that is not known here, or of a number that no setting can have: that one keeps all."""
    await connection.execute(f"INSERT INTO retention VALUES {wish}")
    assert ("audits" in wish) == (await a_pruner(side, 2).run_once()).results
