"""Prints the results of commands, as JSON or as tables on standard output, and parses durations given as arguments."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tidepool import durations, logs

TableRow: TypeAlias = Mapping[str, Any]
"""A row of a table or view, by the names of its columns; what they hold is known to the database alone."""
_MAX_DIGITS = 18
"""Digits of a whole number on a command line: PostgreSQL's `bigint` holds all of them."""
_ANY_WIDTH = 1_000_000
_PIPED_WIDTH = 2000
"""Columns of a table that goes to a file or a program: a row is one line, unless a text in it is longer than that."""
_LEAST_FOLDED = 12
_GAP = 2
"""Blanks between two columns of a table without a box."""


class CommandError(Exception):
    """Raised to end a command with exit status 2; its text is the line that the user sees."""


def print_json(document: object) -> None:
    """Print one JSON document on standard output, with times as ISO 8601 and decimal numbers as text.

    If the encoding of standard output lacks a character, all characters but ASCII are written as JSON escapes.
    """
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(document, default=_plain, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(document, default=_plain, indent=indent)
    print(text)


def print_rows(rows: Sequence[TableRow], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print *rows* on standard output: as a JSON array with all columns, or as a table of *columns* for people.

    If there are no rows, the line *empty* is printed in place of the table.
    """
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
    """A table that prints each row as a record, one value a line, where the terminal is too narrow for its columns.

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
    """Return an empty table for the terminal, with a column for each of *titles*; the caller adds the rows.

    Columns named in *words* have text and are aligned left. All other columns have numbers and are aligned right.
    """
    table = _FittingTable(box=None, pad_edge=False)
    for title in titles:
        if title in words:
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right")
    return table


def left_out(titles: Sequence[str], *, below: int) -> str:
    """Return a line for the user: columns *titles* of a table are not shown on a terminal narrower than *below*.

    The width *below* is a number of characters.
    """
    return f"not shown on a terminal of less than {below} columns: {', '.join(titles)} (--json has them)"


def cell(value: object) -> str:
    """Format *value* as the text of one cell of a table: on one line, without control characters; empty for None.

    Floats and decimals are rounded: to a whole number from 100 on, to one decimal below. Whole numbers stay as they
    are. Times have milliseconds, and dicts are shown as JSON.
    """
    if value is None:
        return ""
    if isinstance(value, float | Decimal):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return logs.printable(str(value))


def console() -> Console:
    """Return a rich console that prints to standard output: as wide as the terminal, or 2,000 characters if piped.

    Both width and height are passed to rich, which would assume 80 by 25 for a terminal with TERM=dumb.
    """
    is_terminal = sys.stdout.isatty()
    size = shutil.get_terminal_size()
    width = size.columns if is_terminal else _PIPED_WIDTH
    return Console(markup=False, highlight=False, force_terminal=is_terminal, width=width, height=size.lines)


def duration(text: str) -> timedelta:
    """Parse a duration such as 90s, 10m, 1.5h or 7d. Use it as the `type` of an argument of argparse."""
    try:
        return durations.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_period(parser: argparse.ArgumentParser, use: str, default: str) -> None:
    """Add the option `--since`, the length of a period that ends now; *use* says in the help text what it is for."""
    parser.add_argument(
        "--since",
        type=duration,
        default=durations.parse(default),
        metavar="PERIOD",
        help=f"length of the period {use}, which ends now, such as 90s, 1.5h or 7d (default {default})",
    )


def _whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argument type for argparse that parses whole numbers from *least* to *most*.

    If *most* is None, it takes numbers of up to 18 digits.
    """
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        is_number = re.fullmatch(f"[0-9]{{1,{_MAX_DIGITS}}}", text)
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return int(text)

    return read


positive = _whole_number(1)
processes = _whole_number(1, 64)
"""A worker process takes about 50 MB, so that a digit too many would take all of the machine's memory."""
port = _whole_number(1, 65_535)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
