"""Defines the commands of a command line, and runs one of them, from the settings to the exit status.

Every command writes its answer to standard output, either for people or, with `--json`, as one JSON document and
nothing else; log lines, progress and errors go to standard error. `tidepool.process` lists the exit statuses.
"""

import argparse
import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Never

import uvloop

from tidepool import logs, process, servers
from tidepool.app import App
from tidepool.cli.context import Context
from tidepool.cli.terminal import CommandError
from tidepool.embedded import EmbeddedServersError, Urls
from tidepool.pool.faults import DataFault, Refused, ServerError, StatementTimeout, Unavailable, words
from tidepool.queue.faults import RedisError
from tidepool.settings import SERVERS, ServerVariable
from tidepool.urls import without_password


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps descriptions to the width of the terminal, and leaves paragraphs that have indented lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = super()._fill_text
        paragraphs = (part if "\n " in part else filled(part, width, indent) for part in text.split("\n\n"))
        return "\n\n".join(paragraphs)


class _Parser(argparse.ArgumentParser):
    """An argument parser with the option `--json`; its help ends with *examples*, as they are written."""

    def __init__(self, *, examples: str, **options: Any) -> None:
        super().__init__(
            epilog=f"examples:\n{examples}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            **options,
        )
        self.add_argument(
            "--json", action="store_true", help="print one JSON document to standard output instead of text"
        )


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One command of a command line, such as `why` in `tidepool why`.

    In *examples*, `%(prog)s` stands for the program with the command's name.
    """

    name: str
    run: Callable[[argparse.Namespace, Context[Any]], Awaitable[int]]
    """Gets the parsed arguments and a `Context` (settings and servers), and returns the exit status. Its docstring is
    the help text, and the first line of the docstring is shown in the list of commands."""
    examples: str
    add_options: Callable[[argparse.ArgumentParser], object] | None = None
    """Adds the options of the command to its parser; None if it has none but `--json`."""
    own_servers: bool = False
    """Whether the command starts the embedded servers (PostgreSQL and Redis from Python wheels) itself, if it needs
    them. Else they are started before it runs."""
    needs: Collection[ServerVariable] = SERVERS
    """The servers that the command uses: an adopted arq application may name only one of them."""


class CommandLine:
    """A program with *commands*, such as `tidepool why`: each has its own options and its own help text.

    *default* is the command that runs if the first argument names none of the others; its name is the empty text.
    """

    def __init__(
        self, program: str, description: str, commands: Iterable[Subcommand], default: Subcommand | None = None
    ) -> None:
        self.parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=_HelpFormatter)
        self.parser.set_defaults(program=program)
        self._commands = self.parser.add_subparsers(
            title="commands", metavar="command", required=True, parser_class=_Parser
        )
        self.parsers: dict[str, argparse.ArgumentParser] = {}
        """The parsers of the commands, by command name."""
        for command in commands:
            text = _help_of(command)
            parser = self._commands.add_parser(
                command.name, help=text.partition("\n")[0], description=text, examples=command.examples
            )
            self._add(command, parser)
        if default is not None:
            self._add(default, _Parser(prog=program, description=_help_of(default), examples=default.examples))

    def _add(self, command: Subcommand, parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(command=command)
        if command.add_options is not None:
            command.add_options(parser)
        self.parsers[command.name] = parser

    def parse(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse *words*, which name a command and its options; by default they are the process's arguments.

        Ends the process with status 2 if they are wrong.
        """
        words = sys.argv[1:] if words is None else words
        is_default = "" in self.parsers and not (words and words[0] in self.parsers)
        return (self.parsers[""] if is_default else self.parser).parse_args(words)

    def run(self, app: App, arguments: argparse.Namespace) -> Never:
        """Run the command of *arguments*, which `parse` returned, for *app*; end the process with its exit status.

        Embedded servers (PostgreSQL and Redis from Python wheels, for a process without DATABASE_URL and REDIS_URL) are
        started first if none run yet, unless the command starts its own; then it gets their addresses only. If the
        command needs a server that the settings of an adopted application do not name, the process ends with status 2.
        """
        command: Subcommand = arguments.command
        settings = app.settings.load_or_exit()
        settings.require_servers(command.needs)
        interruption = _Interruption()
        logs.configure("WARNING" if settings.log_level == "INFO" else settings.log_level)
        try:
            with nullcontext(settings.urls) if command.own_servers else servers.running(settings) as urls:
                running = command.run(arguments, Context(app, settings, urls))
                status = uvloop.run(_cancelled_by(interruption, _guarded(running, urls)))
        except (CommandError, EmbeddedServersError) as error:
            logs.say(f"error: {error}")
            status = process.ERROR
        except (KeyboardInterrupt, asyncio.CancelledError):
            status = 128 + signal.SIGINT
        sys.exit(status if interruption.received is None else 128 + interruption.received)


def _help_of(command: Subcommand) -> str:
    return inspect.cleandoc(command.run.__doc__ or "")


class _Interruption:
    """Signal handler that interrupts a command; *received* is the number of the first signal, None before it.

    It raises `KeyboardInterrupt`, or calls *cancel* if that is set. Set *cancel* while an event loop runs: the loop
    would only log an exception that a handler raises inside a callback, and go on.
    """

    received: int | None = None
    cancel: Callable[[], object] | None = None

    def __init__(self) -> None:
        """Make SIGTERM and SIGHUP interrupt the command from now on, so that it closes what it has open.

        SIGINT is left to Python and its event loop: a second Ctrl-C interrupts the closing, too.
        """
        handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: self, signal.SIGHUP: self}
        for number, handler in handlers.items():
            if not process.stays_ignored(number):
                signal.signal(number, handler)

    def __call__(self, number: int, _frame: object) -> None:
        """Interrupt the command at the first signal; ignore later ones, so that the closing can finish."""
        if self.received is None:
            self.received = number
            if self.cancel is None:
                raise KeyboardInterrupt
            self.cancel()


async def _cancelled_by(interruption: _Interruption, command: Awaitable[int]) -> int:
    """Run *command*, and cancel it when the process gets a signal."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    interruption.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
    try:
        return await command
    finally:
        interruption.cancel = None


async def _guarded(command: Awaitable[int], urls: Urls) -> int:
    """Run *command*; an error of a server becomes one line, any other error is a bug and keeps its traceback."""
    try:
        return await command
    except Exception as error:  # noqa: BLE001  (raised again, out of its groups)
        first = _first(error)
        database = f"PostgreSQL at {without_password(urls.database)}"
        if isinstance(first, (Unavailable, Refused, ServerError)):
            raise CommandError(f"{database}: {words(first)}") from None
        if isinstance(first, DataFault):
            raise CommandError(f"PostgreSQL cannot store such a value: {first}") from None
        if isinstance(first, RedisError):
            raise CommandError(f"Redis at {without_password(urls.redis)}: {words(first)}") from None
        if isinstance(first, StatementTimeout):
            raise CommandError(
                f"{database}: a query took longer than COMMAND_TIMEOUT: select fewer rows, or raise it"
            ) from None
        if isinstance(first, OSError):
            raise CommandError(_refused_by_system(first)) from None
        raise first from None


def _refused_by_system(error: OSError) -> str:
    """Return what the operating system refused, and for which file, as one line: a full disk, say."""
    where = f"{logs.printable(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}{error.strerror or str(error) or type(error).__name__}"


def _first(error: Exception) -> Exception:
    """Return the first error out of the exception groups that task groups wrap it in."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
