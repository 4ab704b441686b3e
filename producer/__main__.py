"""The command line `python -m producer`: enqueue jobs, list their outcomes, run them again, or serve HTTP."""

from tidepool.cli import prepare, run_main

if __name__ == "__main__":
    prepare()  # before the imports below, which take a second

import argparse
import functools
import re
import secrets
import sys

from producer import workload
from producer.run import enqueue_and_follow
from producer.serve_command import add_serve_command
from tidepool.cli import CommandLine, Parser, add_job_commands, positive, processes, run_command
from worker import app

_EXAMPLES = """  %(prog)s --jobs 10000 --workers 1          a generated workload, and a worker to run it
  %(prog)s --jobs 500 --rate 50 --follow     50 jobs a second, with a report of their outcomes
  %(prog)s --jobs 100 --mix create_user=1    only users
  %(prog)s --file commands.jsonl --json      commands of your own, a report for programs
  cat commands.jsonl | %(prog)s --file -     the same from standard input

other commands (each has its own --help):
  %(prog)s results    outcomes of jobs, the newest or the slowest first
  %(prog)s requeue    run failed or rejected jobs again
  %(prog)s serve      the HTTP front"""
_MIN_RATE, _MAX_RATE = 1e-6, 1e9
"""Bounds of --rate, in jobs per second: one job in eleven days, and more than a clock can tell apart."""


def command_line() -> CommandLine:
    """Return the command line of the named commands: `results`, `requeue` and `serve`.

    A command line without one of these words enqueues jobs; `run_parser` parses it.
    """
    commands = CommandLine("python -m producer", "Enqueue jobs, list their outcomes, run them again, serve HTTP.")
    add_job_commands(commands)
    add_serve_command(commands)
    return commands


def run_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m producer` without a command word, which enqueues jobs."""
    parser = Parser(
        prog="python -m producer",
        description="Enqueue jobs: a generated workload, or the commands of a file.",
        examples=_EXAMPLES,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--jobs", type=positive, metavar="N", help="number of jobs to generate")
    source.add_argument("--file", metavar="PATH", help="JSON Lines file of commands to enqueue; - is standard input")
    parser.add_argument(
        "--mix",
        type=_mix,
        metavar="MIX",
        help="shares of the job types in a generated workload (default create_user=2,create_product=1,place_order=7)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        metavar="S",
        help="seed of a generated workload: an equal seed gives an equal workload (default random)",
    )
    parser.add_argument(
        "--rate", type=_rate, metavar="R", help="jobs to enqueue per second (default as many as possible)"
    )
    parser.add_argument("--follow", action="store_true", help="report of all outcomes, after a wait for them")
    parser.add_argument(
        "--workers",
        type=processes,
        default=0,
        metavar="W",
        help="worker processes to run until all outcomes are there; implies --follow (default 0)",
    )
    return parser


def main() -> None:
    """Run the command that `sys.argv` names; without a command word, enqueue jobs.

    Ends the process with the command's exit status.
    """
    words, commands = sys.argv[1:], command_line()
    if words and words[0] in commands.parsers:
        commands.run(app, words)
    run_command(functools.partial(enqueue_and_follow, _run_arguments(words)), app)


def _run_arguments(words: list[str]) -> argparse.Namespace:
    parser = run_parser()
    arguments = parser.parse_args(words)
    if arguments.file is not None and (arguments.mix is not None or arguments.seed is not None):
        parser.error("--mix and --seed are for generated workloads, not for --file")
    arguments.mix = arguments.mix or workload.DEFAULT_MIX
    if arguments.file is None and arguments.seed is None:
        arguments.seed = secrets.randbelow(2**31)
    arguments.follow = arguments.follow or arguments.workers > 0
    return arguments


def _mix(text: str) -> dict[str, int]:
    try:
        return workload.parse_mix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 18 digits or fewer")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not _MIN_RATE <= rate <= _MAX_RATE:  # also refuses nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 0.000001 to 1e9")
    return rate


if __name__ == "__main__":
    run_main(main)
