"""How the commands meet their user: exit status, JSON or a table, errors as one line.

Every command writes its answer to standard output, either for people or, with `--json`, as one JSON
document and nothing else; log lines, progress and errors go to standard error. `tidepool.process` lists the
exit statuses.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Never, TypeVar

import uvloop
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tidepool import durations, logs, process, servers
from tidepool.embedded import EmbeddedServersError, Urls
from tidepool.pool.faults import DataFault, Refused, ServerError, StatementTimeout, Unavailable, words
from tidepool.pool.pool import Pool, PoolConfig
from tidepool.queue.connection import RedisClient, open_redis, wait_for_redis
from tidepool.queue.faults import REDIS_ERRORS, RedisError, RedisRefused
from tidepool.settings import Settings
from tidepool.storage import requirements
from tidepool.storage.migrator import Migration, MigrationError, Migrations
from tidepool.urls import without_password

_HIGHEST_PORT = 65535
_MOST_PROCESSES = 64
"""A worker takes about 50 MB; far fewer have all cores busy."""
_ANY_WIDTH = 1_000_000
_PIPED_WIDTH = 2000
"""Columns of a table that goes to a file or a program: a row is one line, unless a text in it is longer than that."""
_LEAST_FOLDED = 12
_GAP = 2
"""Blanks between two columns of a table without a box."""


class CommandError(Exception):
    """The command cannot go on; its text is the line that the user sees. Exit status 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the examples in its help as they are written, and has `--json`."""

    def __init__(self, *, examples: str, **options: Any) -> None:
        super().__init__(
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )
        self.add_argument("--json", action="store_true", help="print one JSON document instead of words")


S = TypeVar("S", bound=Settings)


def run(command: Callable[[S, Urls], Awaitable[int]], kind: type[S], *, own_servers: bool = False) -> Never:
    """Run *command* with the settings, of class *kind*, and the servers; end the process with its exit status.

    A command with *own_servers* gets the service's addresses only: nothing is started for it.
    """
    settings = kind.load_or_exit()
    interruption = process.interrupt_on_signals()
    logs.configure("WARNING" if settings.log_level == "INFO" else settings.log_level)
    try:
        with nullcontext(servers.addresses(settings)) if own_servers else servers.running(settings) as urls:
            status = uvloop.run(_cancelled_by(interruption, _guarded(command(settings, urls), urls)))
    except (CommandError, EmbeddedServersError) as error:
        logs.say(f"error: {error}")
        status = process.ERROR
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = 128 + signal.SIGINT
    sys.exit(status if interruption.received is None else 128 + interruption.received)


async def _cancelled_by(interruption: process.Interruption, command: Awaitable[int]) -> int:
    """Run *command*, and cancel it at a signal."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    interruption.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
    try:
        return await command
    finally:
        interruption.cancel = None


async def open_pool(settings: Settings, urls: Urls, name: str, migrations: Migrations) -> Pool:
    """Open a small pool for a command, on a database whose schema is there. Raises `CommandError`."""
    config = PoolConfig(
        url=urls.database,
        application_name=f"tidepool-{name}",
        min_size=0,
        max_size=2,
        command_timeout_s=settings.command_timeout,
        connect_timeout_s=settings.connect_timeout,
    )
    if settings.migrate_on_start:
        await migrate_first(config, settings, urls, migrations)
    await patiently(lambda: requirements.check(config, tables=True), settings, urls)
    return await patiently(lambda: Pool.open(config), settings, urls)


async def migrate_first(config: PoolConfig, settings: Settings, urls: Urls, migrations: Migrations) -> list[Migration]:
    """Apply the missing migrations where the database can be written and holds any text; returns what was applied."""
    await patiently(lambda: requirements.check(config, writing=True), settings, urls)
    return await patiently(lambda: migrations.migrate(config), settings, urls)


@asynccontextmanager
async def open_queue(settings: Settings, urls: Urls) -> AsyncGenerator[RedisClient]:
    """Give Redis's client for a command, once Redis answers and can serve us. Raises what redis-py raises."""
    redis = open_redis(urls.redis, queue_name=settings.queue_name, connect_timeout_s=settings.connect_timeout)
    try:
        await wait_for_redis(redis, urls.redis, patience_s=patience_s(settings))
        yield redis
    finally:
        await redis.aclose(close_connection_pool=True)


async def require_redis(settings: Settings, urls: Urls) -> None:
    """Raise `CommandError` where Redis answers and cannot serve us; it may be away."""
    redis = open_redis(urls.redis, queue_name=settings.queue_name, connect_timeout_s=settings.connect_timeout)
    try:
        await wait_for_redis(redis, urls.redis, patience_s=0)
    except RedisRefused as error:
        raise CommandError(f"Redis at {without_password(urls.redis)}: {words(error)}") from None
    except REDIS_ERRORS:
        pass  # it may come later: a front answers 503 until then
    finally:
        await redis.aclose(close_connection_pool=True)


async def patiently(attempt: Callable[[], Awaitable[Any]], settings: Settings, urls: Urls) -> Any:
    """Return what *attempt*, a use of PostgreSQL, returns, waiting for the server as long as commands do."""
    return await servers.wait_for_postgresql(attempt, urls.database, patience_s(settings))


def patience_s(settings: Settings) -> float:
    """Return how long a command tries to reach a server before it gives up with status 2: three connects."""
    return 3 * settings.connect_timeout


async def _guarded(command: Awaitable[int], urls: Urls) -> int:
    """Tell what went wrong with a server in one line; what else goes wrong is a bug and keeps its traceback."""
    try:
        return await command
    except Exception as error:  # noqa: BLE001  (raised again, out of its groups)
        first = _first(error)
        database = f"PostgreSQL at {without_password(urls.database)}"
        if isinstance(first, (Unavailable, Refused, MigrationError, ServerError)):
            raise CommandError(f"{database}: {words(first)}") from None
        if isinstance(first, DataFault):
            raise CommandError(f"PostgreSQL takes no such value: {first}") from None
        if isinstance(first, RedisError):
            raise CommandError(f"Redis at {without_password(urls.redis)}: {words(first)}") from None
        if isinstance(first, StatementTimeout):
            raise CommandError(
                f"{database}: a query took longer than COMMAND_TIMEOUT: ask for less, or raise it"
            ) from None
        if isinstance(first, OSError):
            raise CommandError(_refused_by_system(first)) from None
        raise first from None


def _refused_by_system(error: OSError) -> str:
    """Return what the operating system refuses, such as a file on a disk that is full, and where."""
    where = f"{logs.printable(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}{error.strerror or str(error) or type(error).__name__}"


def _first(error: Exception) -> Exception:
    """Take an error out of the groups that task groups wrap it in."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def note(line: str) -> None:
    """Say on standard error what a long command is doing, where a person is watching."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def print_json(document: Any) -> None:
    """Print one JSON document: times as ISO 8601, money as text; in ASCII if the output lacks a letter."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(document, default=_plain, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(document, default=_plain, indent=indent)
    print(text)


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows: all of their columns as a JSON array, or *columns* as a table, or the line *empty*."""
    if as_json:
        print_json(rows)
    elif not rows:
        print(empty)
    else:
        table = _FittingTable(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column in ("job_id", "worker_id"))
        for row in rows:
            table.add_row(*(cell(row[column]) for column in columns))
        console().print(table)


class _FittingTable(Table):
    """A table that prints its rows as records, one value a line, where the terminal is too narrow for its columns.

    Text may be folded to `_LEAST_FOLDED` characters a line; figures, and ids that are to be copied, never.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least_width(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from map(Text, self._records())

    def _least_width(self, console: Console, options: ConsoleOptions) -> int:
        unbounded = options.update(max_width=_ANY_WIDTH)
        widths: list[int] = []
        for column in self.columns:
            cells = (column.header, *column.cells)
            natural = max(Measurement.get(console, unbounded, one).maximum for one in cells)
            folds = column.overflow == "fold" and not column.no_wrap
            widths.append(min(natural, _LEAST_FOLDED) if folds else natural)
        return sum(widths) + _GAP * (len(widths) - 1)

    def _records(self) -> Iterator[str]:
        """Yield each row as lines of title and value; titles are as wide as the longest."""
        titles = [str(column.header) for column in self.columns]
        width = max(map(len, titles))
        for number, row in enumerate(zip(*(column.cells for column in self.columns), strict=True)):
            lines = [f"{title:<{width}}  {value}" for title, value in zip(titles, row, strict=True) if str(value)]
            yield "\n".join(([""] if number else []) + lines)


def figures_table(titles: Sequence[str], *, words: Collection[str]) -> Table:
    """Return an empty table of figures, to the right but in the columns of *words*."""
    table = _FittingTable(box=None, pad_edge=False)
    for title in titles:
        if title in words:
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right")
    return table


def left_out(titles: Sequence[str], *, below: int) -> str:
    """Return the line that names the columns that a table of less than *below* columns of text does not have."""
    return f"left out on a terminal of less than {below} columns: {', '.join(titles)} (--json has all of it)"


def cell(value: object) -> str:
    """Return *value* as a table shows it: on one line, without control characters, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return logs.printable(str(value))


def figure(value: float | Decimal) -> str:
    """Return a measured value as a table shows it: three digits are enough."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004


def console() -> Console:
    """Return standard output: as wide as the terminal, and wide enough for any row when piped.

    Both sides are given, as rich would take 80 by 25 where TERM is dumb.
    """
    is_terminal = sys.stdout.isatty()
    size = shutil.get_terminal_size()
    width = size.columns if is_terminal else _PIPED_WIDTH
    return Console(markup=False, highlight=False, force_terminal=is_terminal, width=width, height=size.lines)


def duration(text: str) -> timedelta:
    """Read a duration such as 90s, 10m, 1.5h or 7d, for argparse."""
    try:
        return durations.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """Read a whole number of at least 1, for argparse."""
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def processes(text: str) -> int:
    """Read a number of processes to start, for argparse: a digit too many would take all of the machine's memory."""
    count = positive(text)
    if count > _MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {_MOST_PROCESSES} processes")
    return count


def port(text: str) -> int:
    """Read the number of a TCP port, for argparse."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to {_HIGHEST_PORT}")
    return int(text)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return str(value)
