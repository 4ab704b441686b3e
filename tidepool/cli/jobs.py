"""The commands `results` and `requeue`: they list outcomes of jobs, and run jobs again."""

import argparse
import sys
from collections.abc import Sequence

from rich.table import Table

from tidepool.cli import terminal
from tidepool.cli.commands import Subcommand
from tidepool.cli.context import Context
from tidepool.cli.terminal import TableRow
from tidepool.settings import Settings
from tidepool.storage.repositories import Repositories
from tidepool.storage.results import Selection

_RESULTS_EXAMPLES = """  %(prog)s --status failed --since 1h
  %(prog)s northwind-user-ALFKI --json
  %(prog)s --slowest --since 10m     where the time went: Redis, the pool or PostgreSQL"""
_REQUEUE_EXAMPLES = """  %(prog)s                                        every failed job
  %(prog)s --status rejected --function place_order
  %(prog)s northwind-order-10248-42"""
_STATUSES = {
    "applied": "its changes are committed",
    "rejected": "invalid, or refused by a rule of the application",
    "failed": "given up after errors",
}
"""The outcomes that a job can have, and what each means."""
_COLUMNS = ("finished_at", "job_id", "function", "status", "reason", "error", "result", "attempts", "worker_id")
_PARTS = {"queue_us": "queue", "batch_us": "batch", "pool_wait_us": "pool", "db_us": "database", "run_us": "run"}
_PARTS_OF_PLAIN = ("queue_us", "run_us")
_WHERE = """Where the time went, by function (ms). queue: due until taken by a worker; batch: until its batch left;
pool: until the batch had a connection; database: of the whole batch, with the COMMIT of the batch before;
run: in a plain function, which has no batch"""
_QUANTILES = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
_WORDS = ("function", "job_id")
_WIDE_WORDS = ("finished_at", "worker_id", "status", *_WORDS)
_WIDE = 120
"""A terminal with room for more than what a slow job is asked for."""


def _add_results_options(listing: argparse.ArgumentParser) -> None:
    _add_selection(listing, tuple(_STATUSES), "any outcome")
    listing.add_argument(
        "--since",
        type=terminal.duration,
        metavar="AGE",
        help="only outcomes that are at most this old, such as 90s, 1.5h or 7d (default: of any age)",
    )
    listing.add_argument(
        "--limit", type=terminal.positive, default=20, metavar="N", help="max number of outcomes to list (default 20)"
    )
    listing.add_argument(
        "--slowest",
        action="store_true",
        help="sort by duration, longest first, and show where the milliseconds went: waiting in the queue, for its "
        "batch and for a database connection, and work in the database (default: newest first, without durations)",
    )


def _add_requeue_options(requeueing: argparse.ArgumentParser) -> None:
    _add_selection(requeueing, ("failed", "rejected"), "failed, or both for the jobs given by JOB_ID")


def _add_selection(parser: argparse.ArgumentParser, statuses: tuple[str, ...], default: str) -> None:
    parser.add_argument(
        "job_ids", nargs="*", metavar="JOB_ID", help="only the jobs with these ids (default: jobs with any id)"
    )
    meanings = ", ".join(f"{status} ({_STATUSES[status]})" for status in statuses)
    parser.add_argument(
        "--status", choices=statuses, help=f"only jobs with this outcome: {meanings} (default: {default})"
    )
    parser.add_argument(
        "--function", metavar="F", help="only jobs that call this function, such as place_order (default: any function)"
    )


async def _results(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """List the outcomes of jobs that workers have finished, the newest or the slowest first.

    An outcome is applied, rejected or failed; jobs that are still queued or running are not listed. Exit status 1: a
    job given by JOB_ID is not among the outcomes that the options select.
    """
    selection: Selection = {
        "job_ids": arguments.job_ids or None,
        "status": arguments.status,
        "function": arguments.function,
        "since": None,
    }
    shows_parts = arguments.slowest and not arguments.json
    async with context.connection("results") as connection:
        if arguments.since:
            selection["since"] = await Repositories(connection).server.clock() - arguments.since
        ledger = Repositories(connection).results
        listed = ledger.slowest if arguments.slowest else ledger.newest
        rows = await listed(**selection, limit=max(arguments.limit, len(arguments.job_ids)))
        for job_id in sorted(set(arguments.job_ids) - {row["job_id"] for row in rows}):  # others may have many rows
            rows += await listed(**{**selection, "job_ids": [job_id]}, limit=1)
        latency = await ledger.latency(**selection) if shows_parts else []
    if shows_parts and rows:
        _print_by_part(rows, latency)
    else:
        terminal.print_rows(rows, _COLUMNS, as_json=arguments.json, empty="no such outcomes")
    missing = set(arguments.job_ids) - {row["job_id"] for row in rows}
    for job_id in sorted(missing):
        print(f"no outcome of {ascii(job_id)[1:-1]}", file=sys.stderr)
    return 1 if missing else 0


def _print_by_part(rows: Sequence[TableRow], latency: Sequence[TableRow]) -> None:
    """Print where the time of all selected jobs went, and the slowest of them."""
    console = terminal.console()
    console.print(_WHERE)
    console.print(_latency_table(latency))
    console.print("\nThe slowest jobs (ms)")
    is_wide = console.width >= _WIDE
    console.print(_slowest_table(rows, wide=is_wide))
    if not is_wide:
        console.print(terminal.left_out([name for name in _WIDE_WORDS if name not in _WORDS], below=_WIDE))


def _latency_table(latency: Sequence[TableRow]) -> Table:
    titles = ("function", "part", "jobs", *(name.removesuffix("_ms") for name in _QUANTILES))
    table = terminal.figures_table(titles, words=("function", "part"))
    for row in latency:
        quantiles = (terminal.cell(row[name]) for name in _QUANTILES)
        table.add_row(terminal.cell(row["function"]), row["part"], f"{row['jobs']:,}", *quantiles)
    return table


def _slowest_table(rows: Sequence[TableRow], *, wide: bool) -> Table:
    """Return the table of the slowest jobs. The id is the last column, because it may have any length."""
    words = _WIDE_WORDS if wide else _WORDS
    parts = _parts_of(rows)
    titles = [_PARTS[part] if wide else _PARTS[part].replace("database", "db") for part in parts]
    table = terminal.figures_table(("total", *titles, *words), words=words)
    table.padding = (0, 2 if wide else 1, 0, 0)
    for row in rows:
        parts_us = [row[name] for name in parts]
        figures = (terminal.cell(us / 1000) for us in (sum(parts_us), *parts_us))
        table.add_row(*figures, *(terminal.cell(row[name]) for name in words))
    return table


def _parts_of(rows: Sequence[TableRow]) -> list[str]:
    """Return the columns with the parts of the time of *rows*: those of declared types, of plain functions, or both."""
    kinds = {row["atomic"] for row in rows}
    return [
        part for part in _PARTS if (False in kinds and part in _PARTS_OF_PLAIN) or (True in kinds and part != "run_us")
    ]


async def _requeue(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Put failed or rejected jobs back into the queue, so that workers run them again under the same ids.

    Without JOB_ID and options these are all failed jobs. Applied jobs never run again. Jobs of plain functions and jobs
    with more than 64 KiB of arguments cannot, because their arguments are not kept. Exit status 1: a job given by
    JOB_ID was not put back.
    """
    status = arguments.status or (None if arguments.job_ids else "failed")
    job_ids = arguments.job_ids or None
    selection: Selection = {"job_ids": job_ids, "status": status, "function": arguments.function}
    async with context.pool("requeue") as pool, context.client(pool) as client:
        requeued = await client.requeue(**selection)
        async with pool.acquire() as connection:
            left_out = await Repositories(connection).results.count_plain(**selection)
    missing = sorted(set(arguments.job_ids) - set(requeued))
    if arguments.json:
        terminal.print_json({"requeued": len(requeued), "not_requeued": missing, "left_out": left_out})
    else:
        print(f"requeued {len(requeued):,}")
    if left_out:
        print(
            f"left out {left_out:,} of plain functions, whose arguments are not kept: enqueue them anew",
            file=sys.stderr,
        )
    for job_id in missing:
        print(f"not requeued: {ascii(job_id)[1:-1]} (no failed or rejected job with its content kept)", file=sys.stderr)
    return 1 if missing else 0


JOB_COMMANDS = (
    Subcommand("results", _results, _RESULTS_EXAMPLES, _add_results_options),
    Subcommand("requeue", _requeue, _REQUEUE_EXAMPLES, _add_requeue_options),
)
"""The commands on the outcomes of jobs, for the command line of any application."""
