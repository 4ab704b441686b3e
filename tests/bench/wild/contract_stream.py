"""A stream of contracts for the agency of `tests.wild.contracts`, and the account of what its cron jobs made of it."""

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.bench.killing import Kill, working
from tests.bench.wild.trial import Application, Plan, Run, Site, begin, delays, doubles, open_site, ticks, wait_until
from tests.wild import contracts
from tests.wild.contracts import EVERY_S, JOB_TIMEOUT_S, TIMED_OUT

_COMMANDS = {
    engine: (sys.executable, "-m", "arq", f"tests.wild.{module}.WorkerSettings")
    for engine, module in (("stock", "contracts"), ("moved", "contracts_moved"))
}
_FREELANCERS = 7
_PER_POSTING = 5
_LASTS_S = 3
"""Seconds from the start of a contract to its end."""
_IS_DONE = """
SELECT (SELECT count(*) FROM contracts WHERE file IS NULL) = $1 AND NOT EXISTS (SELECT FROM postings WHERE is_open)
"""
_NOTIFICATIONS = """
SELECT subject, worker, began_at, ended_at
FROM notifications JOIN cron_runs ON cron_runs.id = run_id ORDER BY subject, ended_at
"""
_COUNTERS = """
WITH completed AS (SELECT freelancer_id, count(*) FROM contracts WHERE status = 'completed' GROUP BY freelancer_id)
SELECT sum(coalesce(count, 0))::bigint AS completed, sum(completed_contracts)::bigint AS counted,
    count(*) FILTER (WHERE completed_contracts <> coalesce(count, 0)) AS wrong_counters,
    (SELECT count(*) FROM postings WHERE is_open) AS open_postings
FROM freelancers LEFT JOIN completed ON freelancer_id = freelancers.id
"""


async def _run(engine: str, plan: Plan) -> dict[str, object]:
    """Run the stream on one engine, and return its figures."""
    async with open_site(contracts.create_tables) as site, working(_COMMANDS[engine], site.environment) as workers:
        began_s = await begin(site, EVERY_S)
        async with asyncio.TaskGroup() as tasks:
            booking = tasks.create_task(_book(site, plan))
            tasks.create_task(workers.kill(plan.signals, plan.seconds))
        ended_s = time.time() + _LASTS_S

        async def is_over() -> bool:
            done = await site.database.fetchval(_IS_DONE, booking.result())
            return time.time() > ended_s and done and await site.has_ended(ended_s)

        await wait_until(is_over, _LASTS_S + plan.wait_s)
        cron = await ticks(site, began_s, ended_s, EVERY_S, workers.kills)
        return {
            **await _account(site, workers.kills, booking.result(), plan.late_s),
            "cron": {**cron, "timed_out": int(await site.redis.get(TIMED_OUT) or 0)},
        }


async def _book(site: Site, plan: Plan) -> int:
    """Book contracts for *plan.seconds* seconds, each with a file, some for one posting; return their number."""
    await site.database.execute("INSERT INTO freelancers SELECT n, 0 FROM generate_series(1, $1) AS n", _FREELANCERS)
    began_s = time.monotonic()
    count = 0
    while count < plan.rate * plan.seconds:
        await asyncio.sleep(began_s + count / plan.rate - time.monotonic())
        async with site.database.transaction():
            posting_id = await site.database.fetchval("INSERT INTO postings (is_open) VALUES (true) RETURNING id")
            for number in range(count, count + _PER_POSTING):
                await _insert(site, posting_id, number)
        count += _PER_POSTING
    return count


async def _insert(site: Site, posting_id: int, number: int) -> None:
    starts_at = datetime.now(UTC)
    file = _file(site, number)
    file.touch()
    await site.database.execute(
        "INSERT INTO contracts (posting_id, freelancer_id, starts_at, ends_at, status, file)"
        " VALUES ($1, $2, $3, $4, 'scheduled', $5)",
        *(posting_id, number % _FREELANCERS + 1, starts_at, starts_at + timedelta(seconds=_LASTS_S), str(file)),
    )


def _file(site: Site, number: int) -> Path:
    return site.directory / f"contract-{number}"


async def _account(site: Site, kills: list[Kill], count: int, late_s: float) -> dict[str, object]:
    """Compare contracts, counters, notifications and files with each other."""
    counters = dict(await site.database.fetchrow(_COUNTERS))
    completed = await site.database.fetch("SELECT ends_at, completed_at FROM contracts WHERE status = 'completed'")
    notifications: dict[str, list[Run]] = {}
    for subject, worker, began_at, ended_at in await site.database.fetch(_NOTIFICATIONS):
        notifications.setdefault(subject, []).append(Run(worker, began_at.timestamp(), ended_at.timestamp()))
    return {
        "jobs": count,
        "lost": count - counters.pop("completed"),
        "counted_too_often": counters.pop("counted") - len(completed),
        **counters,
        "files_left": sum(_file(site, number).exists() for number in range(count)),
        **delays([(row["completed_at"] - row["ends_at"]).total_seconds() for row in completed], late_s),
        "notifications": {
            "lost": 2 * count + count // _PER_POSTING - len(notifications),
            **doubles(notifications.values(), kills),
        },
    }


APPLICATION = Application(_run, _COMMANDS, longest_timeout_s=JOB_TIMEOUT_S, rate=30)
