"""The command line `python -m lab`: measure the system, tune its connection pool, and break it on purpose."""

import sys
from pathlib import Path

if not __package__:  # a directory that is run comes first in the path of modules, which has to be its parent
    sys.path[0] = str(Path(__file__).parents[1])

from tidepool.cli import prepare

if __name__ == "__main__":
    prepare()  # before the imports below, which take a second

import argparse
import functools
import os
import re
from collections.abc import Awaitable, Callable
from typing import Never

from lab.bench.command import PARTS, bench
from lab.drill.command import EXAMPLES as DRILL_EXAMPLES
from lab.drill.command import add_arguments as add_drill_arguments
from lab.drill.command import drill
from lab.tuning import layouts_command, load_test_command, pool_test_command, tune_command
from settings import Settings
from tidepool.cli import CommandLine, Context, Subcommand, positive, run_main
from tidepool.embedded import Urls
from worker import app

_USUAL_PARTS = tuple(part for part in PARTS if part != "backlog")
_BENCH_EXAMPLES = """  %(prog)s                               about ten minutes
  %(prog)s --parts create_user,pgbench --repeat 5
  %(prog)s --parts backlog --repeat 1    10,000 to 1,000,000 jobs queued
  %(prog)s --json > bench.json"""
_TUNING = {
    "tune": tune_command,
    "pool-test": pool_test_command,
    "load-test": load_test_command,
    "layouts": layouts_command,
}


_DESCRIPTION = "Measure the service, find good settings for its connection pool, and break it on purpose."


def command_line() -> CommandLine:
    """Return the command line of the laboratory, with all its commands."""
    commands = [
        Subcommand("bench", _with_servers(bench), _BENCH_EXAMPLES, _add_bench_arguments),
        Subcommand("drill", _with_servers(drill), DRILL_EXAMPLES, add_drill_arguments, own_servers=True),
    ]
    for name, module in _TUNING.items():
        run = _with_servers(module.run)
        commands.append(Subcommand(name, run, module.EXAMPLES, module.add_arguments, own_servers=True))
    return CommandLine("python -m lab", _DESCRIPTION, commands)


def _with_servers(
    command: Callable[[argparse.Namespace, Settings, Urls], Awaitable[int]],
) -> Callable[[argparse.Namespace, Context[Settings]], Awaitable[int]]:
    """Adapt *command*, which takes settings and the servers' URLs, to the context that a `CommandLine` passes."""

    @functools.wraps(command)
    def called(arguments: argparse.Namespace, context: Context[Settings]) -> Awaitable[int]:
        return command(arguments, context.settings, context.urls)

    return called


def _add_bench_arguments(measuring: argparse.ArgumentParser) -> None:
    measuring.add_argument(
        "--jobs",
        type=positive,
        default=40_000,
        metavar="N",
        help="number of jobs that this service runs in each measurement; arq, which is slower, runs a tenth of them or "
        "fewer (default 40,000)",
    )
    measuring.add_argument(
        "--repeat",
        type=positive,
        default=3,
        metavar="R",
        help="number of times that each measurement is made; the medians are shown (default 3)",
    )
    measuring.add_argument(
        "--parts",
        type=_parts,
        default=_USUAL_PARTS,
        metavar="A,B",
        help=f"measurements to make, separated by commas, of {', '.join(PARTS)} (default: all but backlog)",
    )
    measuring.add_argument(
        "--pin",
        type=_cores,
        metavar="0,1",
        help="numbers of the CPU cores to run the worker processes on, one core for each worker, in this order "
        "(default: the operating system assigns them)",
    )


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(PARTS)}")
    return parts


def _cores(text: str) -> list[int]:
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of cores such as 0,1")
    cores = [int(core) for core in text.split(",")]
    if unknown := set(cores) - os.sched_getaffinity(0):
        raise argparse.ArgumentTypeError(f"this process has no core {min(unknown)}")
    return cores


def main() -> Never:
    """Run the command that the process's arguments name, and end the process with its exit status."""
    commands = command_line()
    commands.run(app, commands.parse())


if __name__ == "__main__":
    run_main(main)
