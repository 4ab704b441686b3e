"""`python -m worker pool`: what the pools do now and did in the last minutes, out of the stored snapshots."""

import argparse
import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.pool.pool import Pool
from tidepool.settings import Settings
from tidepool.storage.repositories import Repositories

EXAMPLES = """  python -m worker pool
  python -m worker pool --since 1h --watch
  python -m worker pool --json | jq '.processes[].wait_p95_ms'"""

_REDRAW_S = 5.0
_HEALTH = (
    ("acquires/s", "acquires_per_second"),
    ("batch p95", "batch_wait_p95_ms"),
    ("wait p50", "wait_p50_ms"), ("wait p95", "wait_p95_ms"), ("wait p99", "wait_p99_ms"),
    ("commit p95", "commit_p95_ms"),
    ("hold p50", "hold_p50_ms"), ("hold p95", "hold_p95_ms"), ("hold p99", "hold_p99_ms"),
    ("in use", "in_use_mean"),
)  # fmt: skip
_PROCESSES = (
    ("process", "worker_id"), ("limit", "pool_limit"), ("jobs", "jobs"), ("retries", "retries"), *_HEALTH,
    ("used", "utilisation"), ("queued", "saturation"), ("timeouts", "acquire_timeouts"),
    ("CPU", "cpu"), ("MB", "rss_mb"),
)  # fmt: skip
_MINUTES = (
    ("minute", "minute"), ("processes", "processes"), ("limit", "pool_limit"), ("jobs", "jobs"), ("retries", "retries"),
    *_HEALTH, ("queued", "saturation_max"), ("timeouts", "acquire_timeouts"), ("CPU", "cpu"), ("MB", "rss_mb"),
)  # fmt: skip
"""Title and column of the view; durations are milliseconds."""
_WIDE = 150
_ONLY_WIDE = (
    "acquires_per_second", "wait_p50_ms", "wait_p99_ms", "hold_p50_ms", "hold_p99_ms", "in_use_mean", "rss_mb",
    "processes", "commit_p95_ms",
)  # fmt: skip
"""Left out of a table on a narrower terminal, where every figure would be cut."""
_NARROW_LACKS = tuple(dict.fromkeys(title for title, name in (*_PROCESSES, *_MINUTES) if name in _ONLY_WIDE))
_SHARES = ("utilisation", "saturation", "saturation_max", "cpu")
_COUNTS = ("jobs", "retries", "processes", "pool_limit", "acquire_timeouts", "rss_mb")
NO_SNAPSHOTS = "no live process wrote a snapshot in that time: is a worker running, and ENABLE_MONITORING on?"


async def pool_health(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """Show the pools of all processes and the fleet's last minutes."""
    pool = await terminal.open_pool(settings, urls, "pool", arguments.app.migrations)
    try:
        if arguments.json:
            terminal.print_json(await _read(pool, arguments))
        elif arguments.watch:
            await _watch(pool, arguments)
        else:
            console = terminal.console()
            console.print(_drawn(await _read(pool, arguments), console.width))
    finally:
        await pool.close()
    return 0


async def _watch(pool: Pool, arguments: argparse.Namespace) -> None:
    """Draw anew until Ctrl-C."""
    console = terminal.console()
    if not console.is_terminal:
        raise terminal.CommandError("--watch needs a terminal; --json is for programs")
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while live.is_started:
            live.update(_drawn(await _read(pool, arguments), console.width), refresh=True)
            await asyncio.sleep(_REDRAW_S)


async def _read(pool: Pool, arguments: argparse.Namespace) -> dict[str, Any]:
    async with pool.acquire() as connection:
        since = await Repositories(connection).server.clock() - arguments.since
        snapshots = Repositories(connection).snapshots
        return {"processes": await snapshots.pool_health(since), "minutes": await snapshots.fleet_health(since)}


def _drawn(health: dict[str, Any], width: int) -> Group | Text:
    if not health["minutes"]:
        return Text(NO_SNAPSHOTS)
    return Group(
        Text("Each process, its last minute (times in ms)"),
        _table(health["processes"], _PROCESSES, width),
        Text("\nThe fleet, minute by minute (UTC)"),
        _table(health["minutes"], _MINUTES, width),
        *([] if width >= _WIDE else [Text(f"\n{terminal.left_out(_NARROW_LACKS, below=_WIDE)}")]),
    )


def _table(rows: list[dict[str, Any]], columns: Sequence[tuple[str, str]], width: int) -> Table:
    shown = [(title, name) for title, name in columns if width >= _WIDE or name not in _ONLY_WIDE]
    table = terminal.figures_table([title for title, _ in shown], words=("process", "minute"))
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for _, name in shown))
    return table


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%H:%M}"
    if name in _SHARES:
        return f"{value:.0%}"
    if name in _COUNTS:
        return f"{int(value):,}"
    if isinstance(value, float | Decimal):
        return terminal.figure(value)
    return str(value)
