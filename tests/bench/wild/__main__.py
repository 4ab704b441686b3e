"""What kills do to two applications: `uv run python -m tests.bench.wild [contracts|mails] [--kills 8] [--terms 6]`.

Runs the applications of `tests/wild` on stock arq and moved, in turn, each time on servers of its own: the same stream
of work for two workers that get the same signals at the same moments, and are replaced at once. Then it waits for the
last jobs. Printed is one JSON document, per application and engine. For each kind of job:

- `lost`          not done when the wait is over; of those `lost_never_begun`
- `doubled`       done more than once; `at_a_kill` were running, or had ended less than 50 ms before, when their worker
  was killed; of the others `side_by_side` were done by two runs at the same time. What is neither is a defect
- `late`          begun more than `--late` seconds after it was due, and the distribution of these delays in seconds
- `attempts`      how many mails the provider was asked for once, twice and so on, and how many by its refusals alone
- `runs_per_tick` how many ticks of the cron jobs have how many committed runs
- `timed_out`     runs of the contracts' cron jobs, the wait included, that were cancelled after their timeout of 15 s

Contracts are due when they end; the cron jobs run every two seconds. A tick also has a second run, a minute after the
first, if a worker starts in the half second before it: it enqueues the tick again when another worker has run it
already. arq does so, and an adopted application likewise.

Stock arq runs the jobs of a killed worker again after the application's longest timeout and ten seconds, which is
`stock_recovers_after_s`; both applications have short timeouts, so that a run takes less than two minutes. If a worker
needs longer to start than there is time between two signals, nobody works at times, and everything is late.

If many contracts are lost and `timed_out` is high, the machine was too slow, and neither the engine nor the signals
lost them. One run advances all contracts that are due, in one transaction. If it cannot do so within its timeout, all
of it is rolled back. By then the runs of the next ticks wait for the rows that it locked, so each of them has only two
seconds left when it gets the locks, and is rolled back, too. The workers are alive, and complete nothing any more.
Lower `--rate`, or repeat on an idle machine.
"""

import argparse
import asyncio
import json
import sys

from tests.bench.killing import mixed
from tests.bench.wild import contract_stream, mail_stream
from tests.bench.wild.trial import Plan

_APPLICATIONS = {"contracts": contract_stream.APPLICATION, "mails": mail_stream.APPLICATION}
_ARQS_RESERVE_S = 10
"""Seconds that arq adds to the longest timeout."""


def main() -> int:
    """Run the streams in turn; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("application", nargs="?", choices=_APPLICATIONS, help="which one (default both)")
    parser.add_argument("--kills", type=int, default=8, metavar="N", help="workers that get SIGKILL (default 8)")
    parser.add_argument("--terms", type=int, default=6, metavar="N", help="workers that get SIGTERM (default 6)")
    parser.add_argument("--seconds", type=int, default=60, metavar="S", help="of each stream (default 60)")
    parser.add_argument("--rate", type=int, metavar="R", help="contracts or mails a second (default 30)")
    parser.add_argument("--late", type=float, default=5.0, metavar="S", help="delay of a late job (default 5)")
    parser.add_argument("--wait", type=float, default=65.0, metavar="S", help="for the last jobs (default 65)")
    print(json.dumps(asyncio.run(_applications(parser.parse_args())), indent=2))
    return 0


async def _applications(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    names = [arguments.application] if arguments.application else list(_APPLICATIONS)
    return {name: await _engines(name, arguments) for name in names}


async def _engines(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Run an application's stream on each engine."""
    application = _APPLICATIONS[name]
    signals = mixed(arguments.kills, arguments.terms)
    plan = Plan(arguments.rate or application.rate, arguments.seconds, signals, arguments.late, arguments.wait)
    found: dict[str, object] = {"stock_recovers_after_s": application.longest_timeout_s + _ARQS_RESERVE_S}
    for engine in application.commands:
        found[engine] = await application.run(engine, plan)
        print(f"{name} {engine}: {json.dumps(found[engine])}", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
