"""The fleet as its snapshots tell of it: each process, the last minutes, the verdicts, the budget of connections."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from tidepool.advice.study import read_studies
from tidepool.advice.verdict import Study, Verdict, examine
from tidepool.pool.connection import Connection
from tidepool.pool.pool import Pool
from tidepool.storage.repositories import Repositories

_MINUTES = timedelta(minutes=10)
_JUDGED = timedelta(minutes=15)
_MOST_ROWS = 120
"""A third of what `why` reads: who asks here asks often, and for ten processes that took half a second."""
_BUDGET_OF = timedelta(minutes=2)
_HISTOGRAMS = ("wait_hist", "hold_hist", "batch_wait_hist", "commit_hist")
_BUDGET = (
    "tick", "max_connections", "reserved_connections", "role_limit", "database_limit", "backends",
    "backends_of_workers", "backends_orphaned", "workers", "granted", "usable",
)  # fmt: skip


async def read_fleet(connection: Connection) -> dict[str, Any]:
    """Return the last minute of each live process, the last ten minutes of all of them, and the budget.

    The columns are those of the views `pool_health` and `fleet_health`, and of `db_snapshots`; no budget: null.
    """
    now = datetime.now(UTC)
    repositories = Repositories(connection)
    processes = await repositories.snapshots.pool_health(now - _MINUTES)
    minutes = await repositories.snapshots.fleet_health(now - _MINUTES)
    server = await repositories.server.window(now - _BUDGET_OF)
    return {
        "processes": [{name: row[name] for name in row if name not in _HISTOGRAMS} for row in processes],
        "minutes": minutes,
        "budget": {name: server[-1][name] for name in _BUDGET} if server else None,
    }


async def judge(studies: Sequence[Study]) -> list[tuple[Study, Verdict]]:
    """Return the studies with their verdicts. Computed in a thread: it may take a second for large pools."""
    return await asyncio.to_thread(lambda: [(study, examine(study)) for study in studies])


async def read_groups(pool: Pool) -> list[dict[str, Any]]:
    """Return the verdicts on the last fifteen minutes, ready for JSON, with the advice where there is one.

    One for each group of processes that are set up alike.
    """
    until = datetime.now(UTC)
    async with pool.acquire() as connection:
        studies = await read_studies(connection, since=until - _JUDGED, until=until, most_rows=_MOST_ROWS)
    judged = await judge(studies)
    return [{**about(study), **verdict_of(verdict), "advice": advice_of(verdict)} for study, verdict in judged]


def about(study: Study) -> dict[str, Any]:
    """Return whom a verdict is about, and of when."""
    newest = study.window.newest
    return {
        "processes": sorted(row["worker_id"] for row in newest),
        "since": study.since,
        "until": study.until,
        "max_size": newest[0]["max_size"],
        "pool_limit": study.window.limit,
        "callers": newest[0]["callers"],
    }


def verdict_of(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict with all that led to it."""
    return {
        "verdict": verdict.name,
        "words": verdict.finding.words,
        "findings": [
            {**asdict(finding), "evidence": [{**asdict(one), "counts": one.counts} for one in finding.evidence]}
            for finding in verdict.findings
        ],
    }


def advice_of(verdict: Verdict) -> dict[str, Any] | None:
    """Return the advice, if there is one."""
    return asdict(verdict.advice) if verdict.advice else None
