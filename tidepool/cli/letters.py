"""The command `dead-letters`: it lists jobs that no worker understood, requeues them, or deletes them."""

import argparse
import sys
from datetime import UTC, datetime

from tidepool.cli import terminal
from tidepool.cli.commands import Subcommand
from tidepool.cli.context import Context
from tidepool.cli.terminal import TableRow
from tidepool.queue.dead_letters import DeadLetter, DeadLetters
from tidepool.settings import Settings

_EXAMPLES = """  %(prog)s
  %(prog)s --requeue                   all of them, when the mistake is mended
  %(prog)s --requeue 5f3c 77aa --json
  %(prog)s --discard 5f3c"""
_COLUMNS = ("since", "job_id", "function", "reason", "bytes")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "job_ids", nargs="*", metavar="JOB_ID", help="only the jobs with these ids (default: all dead letters)"
    )
    parser.add_argument(
        "--limit", type=terminal.positive, default=20, metavar="N", help="max number of jobs to list (default 20)"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--requeue",
        action="store_true",
        help="put the jobs back into the queue under their ids, with all of their tries (default: list them)",
    )
    action.add_argument(
        "--discard", action="store_true", help="delete the jobs and their contents for good (default: list them)"
    )


async def _dead_letters(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """List the jobs that no worker understood, the oldest first; or put them back into the queue, or delete them.

    No live worker had the function that the job calls, or none could decode it, for the time that the engine's option
    leave_s sets (60 seconds). Redis keeps such a job until it is requeued or discarded. Exit status 1: a job given by
    JOB_ID is no dead letter, or was not put back because its id is in the queue again.
    """
    asked = frozenset[str](arguments.job_ids)
    async with context.client() as client:
        letters = client.dead_letters
        if arguments.requeue or arguments.discard:
            ended = await (letters.requeue(asked) if arguments.requeue else letters.discard(asked))
        else:
            ended = await _list(letters, asked, arguments)
    missing = sorted(asked - set(ended))
    if arguments.requeue or arguments.discard:
        done = "requeued" if arguments.requeue else "discarded"
        if arguments.json:
            terminal.print_json({done: len(ended), f"not_{done}": missing})
        else:
            print(f"{done} {len(ended):,}")
    for job_id in missing:
        reason = "no such dead letter, or the id is in the queue" if arguments.requeue else "no such dead letter"
        print(f"{reason}: {ascii(job_id)[1:-1]}", file=sys.stderr)
    return 1 if missing else 0


async def _list(letters: DeadLetters, asked: frozenset[str], arguments: argparse.Namespace) -> list[str]:
    """Print dead letters; return the ids of their jobs."""
    found = await letters.oldest(max(arguments.limit, len(asked)), asked)
    rows = [_row(letter) for letter in found]
    terminal.print_rows(rows, _COLUMNS, as_json=arguments.json, empty="no dead letters")
    count = await letters.count()
    if not asked and count > len(found) and not arguments.json:
        print(f"these are the oldest of {count:,}: --limit shows more", file=sys.stderr)
    return [letter.job_id for letter in found]


def _row(letter: DeadLetter) -> TableRow:
    return {
        "job_id": letter.job_id,
        "function": letter.function,
        "reason": letter.reason,
        "since": _time(letter.since_ms),
        "due_at": None if letter.due_ms is None else _time(letter.due_ms),
        "bytes": letter.size,
    }


def _time(ms: int) -> datetime | None:
    """Return Unix milliseconds as a time; None if that is none: any program may have written them."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


COMMAND = Subcommand("dead-letters", _dead_letters, _EXAMPLES, _add_options, needs=["redis_url"])
