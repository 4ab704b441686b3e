"""Requeues ended jobs: withdraws their outcomes from the ledger and enqueues them again under the same ids."""

from typing import Unpack

from tidepool.client import MOST_AT_ONCE, JobClient
from tidepool.pool.pool import Pool
from tidepool.queue.submission import Submission
from tidepool.storage.repositories import Repositories
from tidepool.storage.results import Selection


async def requeue_all(
    pool: Pool, client: JobClient, *, search: str | None = None, **selection: Unpack[Selection]
) -> list[str]:
    """Requeue the failed and rejected jobs that match *search* and *selection*; return their ids in order.

    Applied jobs and jobs whose content was not kept are left out. Works in chunks of up to `MOST_AT_ONCE` jobs; a call
    that was interrupted can be repeated.
    """
    requeued: list[str] = []
    while True:
        async with pool.transaction() as connection:
            jobs = await Repositories(connection).results.mark_requeued(
                after_id=requeued[-1] if requeued else "", limit=MOST_AT_ONCE, search=search, **selection
            )
        if not jobs:
            return requeued
        await client.enqueue_many([Submission(*job) for job in jobs], again=True)
        requeued += [job.job_id for job in jobs]
