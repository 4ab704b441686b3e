"""`python -m producer`: enqueue jobs, list their outcomes, run them again."""

from tidepool import process

if __name__ == "__main__":
    process.prepare()  # before the imports below, which take a second

import argparse
import re
import secrets
import sys

from producer import run_command, serve_command, workload
from settings import Settings
from tidepool.cli import jobs as ledger_commands
from tidepool.cli import terminal
from tidepool.cli.terminal import Parser
from worker import app

_RUN_EXAMPLES = """  python -m producer --jobs 10000 --workers 1          a generated workload, and a worker to run it
  python -m producer --jobs 500 --rate 50 --follow     50 jobs a second, wait for the outcomes
  python -m producer --jobs 100 --mix create_user=1    only users
  python -m producer --file commands.jsonl --json      commands of your own, a report for programs
  cat commands.jsonl | python -m producer --file -     the same from standard input

other commands (each has its own --help):
  python -m producer results    outcomes of jobs, the newest or the slowest first
  python -m producer requeue    run failed or rejected jobs again
  python -m producer serve      the HTTP front"""
_RESULTS_EXAMPLES = """  python -m producer results --status failed --since 1h
  python -m producer results northwind-user-ALFKI --json
  python -m producer results --slowest --since 10m     Redis, the pool or PostgreSQL: where did the time go?"""
_REQUEUE_EXAMPLES = """  python -m producer requeue                                        every failed job
  python -m producer requeue --status rejected --function place_order
  python -m producer requeue northwind-order-10248-42"""


def run_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m producer` without a command word."""
    parser = Parser(
        prog="python -m producer",
        description="Enqueue jobs: a generated workload, or the commands of a file.",
        examples=_RUN_EXAMPLES,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--jobs", type=terminal.positive, metavar="N", help="generate N jobs")
    source.add_argument("--file", metavar="PATH", help="read commands from a JSON Lines file; - is standard input")
    parser.add_argument(
        "--mix",
        type=_mix,
        metavar="MIX",
        help="shares of a workload (default create_user=2,create_product=1,place_order=7)",
    )
    parser.add_argument("--seed", type=_seed, metavar="S", help="generate the same workload again (default: a new one)")
    parser.add_argument("--rate", type=_rate, metavar="R", help="enqueue R jobs a second (default: as fast as it goes)")
    parser.add_argument("--follow", action="store_true", help="wait for the outcomes and report them")
    parser.add_argument(
        "--workers",
        type=terminal.processes,
        default=0,
        metavar="W",
        help="run W workers for the length of the run; implies --follow",
    )
    return parser


def results_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m producer results`."""
    parser = Parser(
        prog="python -m producer results",
        description="List outcomes of jobs: of the given ones or all, the newest or the slowest first.",
        examples=_RESULTS_EXAMPLES,
    )
    _add_selection(parser)
    parser.add_argument("--since", type=terminal.duration, metavar="AGO", help="only the last 90s, 10m, 1.5h, 7d …")
    parser.add_argument("--limit", type=terminal.positive, default=20, metavar="N", help="at most N rows (default 20)")
    parser.add_argument(
        "--slowest",
        action="store_true",
        help="those that took longest first, by their time in the queue, for a connection and in the database",
    )
    return parser


def requeue_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m producer requeue`."""
    parser = Parser(
        prog="python -m producer requeue",
        description="Run jobs again that failed or were rejected, under their own ids. Applied jobs never run again.",
        examples=_REQUEUE_EXAMPLES,
    )
    _add_selection(parser, ("failed", "rejected"))
    return parser


def serve_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m producer serve`."""
    parser = Parser(
        prog="python -m producer serve",
        description="Serve the HTTP front until Ctrl-C: enqueue commands, read outcomes.",
        examples=serve_command.EXAMPLES,
    )
    serve_command.add_arguments(parser)
    return parser


COMMANDS = {
    "results": (results_parser, ledger_commands.results),
    "requeue": (requeue_parser, ledger_commands.requeue),
    "serve": (serve_parser, serve_command.serve),
}
"""The commands with a word of their own; without one, it is a run."""


def main() -> None:
    """Run the command that the command line names."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        make_parser, command = COMMANDS[words[0]]
        arguments = make_parser().parse_args(words[1:])
    else:
        arguments, command = _run_arguments(words), run_command.enqueue_and_follow
    arguments.app = app
    terminal.run(lambda settings, urls: command(arguments, settings, urls), Settings)


def _run_arguments(words: list[str]) -> argparse.Namespace:
    parser = run_parser()
    arguments = parser.parse_args(words)
    if arguments.file is not None and (arguments.mix is not None or arguments.seed is not None):
        parser.error("--mix and --seed are of generated workloads: they do not go with --file")
    arguments.mix = arguments.mix or workload.DEFAULT_MIX
    if arguments.file is None and arguments.seed is None:
        arguments.seed = secrets.randbelow(2**31)
    arguments.follow = arguments.follow or arguments.workers > 0
    return arguments


def _add_selection(
    parser: argparse.ArgumentParser, statuses: tuple[str, ...] = ("applied", "rejected", "failed")
) -> None:
    parser.add_argument("job_ids", nargs="*", metavar="JOB_ID", help="only these jobs")
    parser.add_argument("--status", choices=statuses, help="only jobs of this status")
    parser.add_argument("--function", metavar="F", help="only jobs of this function")


def _mix(text: str) -> dict[str, int]:
    try:
        return workload.parse_mix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at most 18 digits")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 1e-6 <= rate <= 1e9:  # noqa: PLR2004  (also refuses nan)
        raise argparse.ArgumentTypeError(f"{text!r} is no rate from 0.000001 to 1e9")
    return rate


if __name__ == "__main__":
    process.run(main)
