"""`python -m producer results` and `requeue`: what became of jobs, and running them again."""

import argparse
import sys

from producer.client import MOST_AT_ONCE, JobClient
from producer.submission import Submission
from settings import Settings
from worker import terminal
from worker.broker import open_redis
from worker.db.pool import Pool
from worker.db.repositories import Repositories
from worker.embedded import Urls

_COLUMNS = ("finished_at", "job_id", "function", "status", "reason", "error", "result", "attempts", "worker_id")


async def results(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """List ledger rows; exit status 1 where a job that was asked for has none."""
    pool = await terminal.open_pool(settings, urls, "results")
    async with pool.acquire() as connection:
        ledger = Repositories(connection).results
        rows = await ledger.newest(
            job_ids=arguments.job_ids or None,
            status=arguments.status,
            function=arguments.function,
            since=terminal.since(arguments.since),
            limit=max(arguments.limit, len(arguments.job_ids)),
        )
    await pool.close()
    terminal.print_rows(rows, _COLUMNS, as_json=arguments.json, empty="no such outcomes")
    missing = set(arguments.job_ids) - {row["job_id"] for row in rows}
    for job_id in sorted(missing):
        print(f"no outcome of {ascii(job_id)[1:-1]}", file=sys.stderr)
    return 1 if missing else 0


async def requeue(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """Take outcomes back and enqueue their jobs; exit status 1 where a job that was asked for cannot run again."""
    pool = await terminal.open_pool(settings, urls, "requeue")
    redis = open_redis(urls.redis, queue_name=settings.queue_name, connect_timeout_s=settings.connect_timeout)
    client = JobClient(redis, patience_s=terminal.patience_s(settings))
    status = arguments.status or (None if arguments.job_ids else "failed")
    requeued = await _requeue_all(arguments, status, pool, client)
    await redis.aclose(close_connection_pool=True)
    await pool.close()
    missing = sorted(set(arguments.job_ids) - set(requeued))
    if arguments.json:
        terminal.print_json({"requeued": len(requeued), "not_requeued": missing})
    else:
        print(f"requeued {len(requeued):,}")
    for job_id in missing:
        print(f"not requeued: {ascii(job_id)[1:-1]} (no failed or rejected job with its content kept)", file=sys.stderr)
    return 1 if missing else 0


async def _requeue_all(arguments: argparse.Namespace, status: str | None, pool: Pool, client: JobClient) -> list[str]:
    """Requeue in chunks, in the order of the ids; returns the ids."""
    requeued: list[str] = []
    while True:
        async with pool.transaction() as connection:
            jobs = await Repositories(connection).results.mark_requeued(
                arguments.job_ids or None,
                status=status,
                function=arguments.function,
                after_id=requeued[-1] if requeued else "",
                limit=MOST_AT_ONCE,
            )
        if not jobs:
            return requeued
        await client.enqueue_many([Submission(*job) for job in jobs], again=True)
        requeued += [job.job_id for job in jobs]
