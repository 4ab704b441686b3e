"""The agency's cron jobs, on stock arq and on Tidepool."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from waiting import until

from tests.wild import contracts
from tidepool.pool.config import PoolConfig


@pytest.mark.parametrize("settings", ["contracts.WorkerSettings", "contracts_moved.WorkerSettings"])
async def test_contracts_are_moved_along(
    empty_database: PoolConfig, run_worker: Callable[..., None], tmp_path: Path, settings: str
) -> None:
    """They are started, completed, counted and notified; their posting is closed, and their files are deleted."""
    await contracts.create_tables(empty_database.url)
    database: Any = await asyncpg.connect(empty_database.url)
    files = [tmp_path / name for name in ("ended", "running", "future")]
    now, hour = datetime.now(UTC), timedelta(hours=1)
    await database.execute("INSERT INTO freelancers VALUES (1, 0)")
    await database.execute("INSERT INTO postings VALUES (1, true), (2, true)")
    for posting_id, starts_at, file in zip((1, 2, 2), (now - 2 * hour, now, now + hour), files, strict=True):
        file.touch()
        await database.execute(
            "INSERT INTO contracts (posting_id, freelancer_id, starts_at, ends_at, status, file)"
            " VALUES ($1, 1, $2, $3, 'scheduled', $4)",
            *(posting_id, starts_at, starts_at + hour, str(file)),
        )

    run_worker("arq", f"tests.wild.{settings}")
    finished = "SELECT NOT is_open AND (SELECT file IS NULL FROM contracts WHERE id = 1) FROM postings WHERE id = 1"
    await until(lambda: database.fetchval(finished))

    statuses = await database.fetch("SELECT status FROM contracts ORDER BY id")
    assert ["completed", "running", "scheduled"] == [row["status"] for row in statuses]
    assert [False, True, True] == [file.exists() for file in files]
    assert 1 == await database.fetchval("SELECT completed_contracts FROM freelancers")
    notifications = await database.fetch("SELECT subject FROM notifications")
    subjects = ["contract 1 has started", "contract 1 is completed", "contract 2 has started", "posting 1 is closed"]
    assert subjects == sorted(row["subject"] for row in notifications)
    assert [1] == [
        row["runs"] for row in await database.fetch("SELECT DISTINCT count(*) AS runs FROM cron_runs GROUP BY job_id")
    ]
    await database.close()
