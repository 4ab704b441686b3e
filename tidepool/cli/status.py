"""The command `status`: it shows the queue, the workers and the last outcomes, or one job."""

import argparse
import sys
from datetime import timedelta

from tidepool.cli import terminal
from tidepool.cli.commands import Subcommand
from tidepool.cli.context import Context
from tidepool.cli.terminal import TableRow
from tidepool.client import JobClient
from tidepool.pool.connection import Connection
from tidepool.queue.state import HeldJobs
from tidepool.queue.wire import now_ms
from tidepool.settings import Settings
from tidepool.storage.repositories import Repositories

_EXAMPLES = """  %(prog)s
  %(prog)s northwind-user-ALFKI      one job, wherever it is
  %(prog)s --since 10m --json"""
_IN_QUEUE = ("queued", "deferred", "in_progress")
_WORKERS = timedelta(minutes=10)
"""How far back the snapshots of live processes are looked for; their views count whole minutes."""
_OUTCOMES = ("function", "applied", "rejected", "failed")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", nargs="?", metavar="JOB_ID", help="the job to show (default: the queue as a whole)")
    terminal.add_period(parser, "whose outcomes are counted", "1h")
    parser.add_argument(
        "--limit",
        type=terminal.positive,
        default=20,
        metavar="N",
        help="max number of running jobs to list for each worker (default 20)",
    )


async def _status(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Show how many jobs wait and run, the live workers with their jobs, and the last outcomes; or show one job.

    Waiting and running jobs are read from Redis, outcomes and idle workers from the database: an adopted application
    without a database has only the former. A running job of a stock arq worker counts as waiting. Exit status 1: there
    is no job with the id JOB_ID.
    """
    async with context.client() as client:
        if not context.urls.database:
            return await _show(arguments, client, None)
        async with context.connection("status") as connection:
            return await _show(arguments, client, connection)


async def _show(arguments: argparse.Namespace, client: JobClient, connection: Connection | None) -> int:
    """Print what *arguments* ask for; *connection* is None if there is no database. Returns the exit status."""
    if arguments.job_id is None:
        await _show_queue(arguments, client, connection)
        return 0
    job = await _job(arguments.job_id, client, connection)
    if job is None:
        print(f"no job has the id {ascii(arguments.job_id)[1:-1]}", file=sys.stderr)
    elif arguments.json:
        terminal.print_json(job)
    else:
        width = max(map(len, job))
        print("\n".join(f"{name:{width}}  {terminal.cell(value)}" for name, value in job.items() if value is not None))
    return 0 if job is not None else 1


async def _job(job_id: str, client: JobClient, connection: Connection | None) -> TableRow | None:
    """Return what is known of a job: its state in the queue, or else its outcome. None if there is no such job."""
    state = await client.status(job_id)
    if state in _IN_QUEUE:
        retrying = await client.retrying(job_id)
        (running,) = await client.state.jobs([job_id])
        lease = {"worker_id": running.worker_id, "lease_ends_at": running.lease_ends_at}
        shown = {"job_id": job_id, "status": state, **(retrying._asdict() if retrying else {})}
        return {**shown, **lease} if state == "in_progress" else shown
    rows = await Repositories(connection).results.newest(job_ids=[job_id], limit=1) if connection else []
    if rows:
        return rows[0]
    return {"job_id": job_id, "status": state} if state == "complete" else None


async def _show_queue(arguments: argparse.Namespace, client: JobClient, connection: Connection | None) -> None:
    backlog = await client.state.backlog(now_ms())
    if backlog is None:
        raise terminal.CommandError("Redis does not answer")
    held = await client.state.held(arguments.limit)
    workers = [one._asdict() for one in held]
    outcomes: list[TableRow] | None = None
    if connection is not None:
        now = await Repositories(connection).server.clock()
        live = await Repositories(connection).snapshots.pool_health(now - _WORKERS)
        idle = {str(row["worker_id"]) for row in live} - {one.worker_id for one in held}
        workers += [HeldJobs(worker_id, 0, [])._asdict() for worker_id in sorted(idle)]
        outcomes = [*await Repositories(connection).results.outcomes(now - arguments.since)]
    letters = await client.dead_letters.count()
    if arguments.json:
        queue = {**backlog._asdict(), "dead_letters": letters}
        terminal.print_json({"queue": queue, "workers": workers, "outcomes": outcomes})
        return
    oldest = "no job is due" if backlog.oldest_s is None else f"the oldest due for {backlog.oldest_s:.1f} s"
    print(f"{backlog.waiting:,} waiting, {backlog.running:,} running, {oldest}; dead letters: {letters:,}\n")
    rows = [{**row, "job_ids": ", ".join(row["job_ids"])} for row in workers]
    terminal.print_rows(rows, ("worker_id", "running", "job_ids"), as_json=False, empty="no live worker is known")
    if outcomes is not None:
        print(f"\nOutcomes of the last {arguments.since}")
        terminal.print_rows(outcomes, _OUTCOMES, as_json=False, empty="no outcomes")


COMMAND = Subcommand("status", _status, _EXAMPLES, _add_options, needs=["redis_url"])
