"""`python -m lab`: measure the system, tune its pool, and break it on purpose."""

from tidepool import process

if __name__ == "__main__":
    process.prepare()  # before the imports below, which take a second

import argparse
import os
import re
from typing import Any

from lab.bench.command import PARTS, bench
from lab.drill.command import EXAMPLES as DRILL_EXAMPLES
from lab.drill.command import add_arguments as add_drill_arguments
from lab.drill.command import drill
from lab.tuning import layouts_command, load_test_command, pool_test_command, tune_command
from settings import Settings
from tidepool.cli import terminal
from tidepool.cli.terminal import Parser

_USUAL_PARTS = tuple(part for part in PARTS if part != "backlog")
_BENCH_EXAMPLES = """  python -m lab bench                               about ten minutes
  python -m lab bench --parts create_user,pgbench --repeat 5
  python -m lab bench --parts backlog --repeat 1    10,000 to 1,000,000 jobs queued
  python -m lab bench --json > bench.json"""
_TUNING = {
    "tune": tune_command,
    "pool-test": pool_test_command,
    "load-test": load_test_command,
    "layouts": layouts_command,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(metavar="command", required=True, parser_class=Parser)
    _add_bench(commands)
    add_drill_arguments(_add(commands, "drill", drill, DRILL_EXAMPLES))
    for name, command in _TUNING.items():
        command.add_arguments(_add(commands, name, command.run, command.EXAMPLES))
    return top


def _add_bench(commands: Any) -> None:
    measuring = _add(commands, "bench", bench, _BENCH_EXAMPLES, own_servers=False)
    measuring.add_argument(
        "--jobs", type=terminal.positive, default=40_000, metavar="N", help="jobs of ours a drain (default 40,000)"
    )
    measuring.add_argument(
        "--repeat", type=terminal.positive, default=3, metavar="R", help="rounds, for medians (default 3)"
    )
    measuring.add_argument(
        "--parts",
        type=_parts,
        default=_USUAL_PARTS,
        metavar="A,B",
        help=f"of {', '.join(PARTS)} (default: all but backlog)",
    )
    measuring.add_argument("--pin", type=_cores, metavar="0,1", help="run worker 1, 2, … on these cores")


def _add(commands: Any, name: str, command: Any, examples: str, *, own_servers: bool = True) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=command.__doc__, description=command.__doc__, examples=examples)
    added.set_defaults(command=command, own_servers=own_servers)
    return added


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


def main() -> None:
    """Run the command that the command line names."""
    arguments = parser().parse_args()
    terminal.run(
        lambda settings, urls: arguments.command(arguments, settings, urls), Settings, own_servers=arguments.own_servers
    )


if __name__ == "__main__":
    process.run(main)
