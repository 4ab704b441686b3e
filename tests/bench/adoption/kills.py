"""What kills do to plain functions: `uv run python -m tests.bench.adoption.kills [--rate 1000] [--seconds 40]`.

Two workers of the shop in `examples/` run a stream of `charge` jobs while one after the other is killed and replaced at
once: in each of the chosen forms (see `python -m tests.bench.adoption --help`), under SIGKILL and under SIGTERM in
turn, on servers of its own. Printed is one JSON document. For each stream:

- `lost`     jobs without a charge when the wait is over; stock arq runs a killed worker's jobs again after 310 s
- `doubled`  jobs that were charged more than once; `doubled_long_ended` are those of them whose first charge was made
  more than 50 ms before a worker was killed, so that they did not run any more
- `late`     jobs that were charged more than `--late` seconds after they were enqueued, and `slowest_s`
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.bench.adoption.shop import Form, Shop, add_forms, open_shop
from tests.bench.killing import ENDED_S, WORKERS, Kill, working

_TICK_S = 0.02
_LOOK_S = 0.1
_CHARGES = """
SELECT order_id, count(*) AS charges, extract(epoch FROM min(charged_at))::float8 AS charged_s
FROM charges GROUP BY order_id
"""


@dataclass
class Stream:
    """The kills of workers, and when each order was enqueued, by its number; in seconds of the clock."""

    kills: list[Kill]
    enqueued_s: dict[int, float] = field(default_factory=dict)


def main() -> int:
    """Run all streams in turn; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, metavar="R", help="jobs a second (default 1,000)")
    parser.add_argument("--seconds", type=int, default=40, metavar="S", help="of each stream (default 40)")
    parser.add_argument("--kills", type=int, default=8, metavar="N", help="workers that get SIGKILL (default 8)")
    parser.add_argument("--terms", type=int, default=6, metavar="N", help="workers that get SIGTERM (default 6)")
    parser.add_argument(
        "--late", type=float, default=5.0, metavar="S", help="delay of a late job in seconds (default 5)"
    )
    parser.add_argument("--wait", type=float, default=330.0, metavar="S", help="for the last jobs (default 330)")
    add_forms(parser, "stock,moved")
    print(json.dumps(asyncio.run(_streams(parser.parse_args())), indent=2))
    return 0


async def _streams(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    async with open_shop() as shop:
        for number, count in ((signal.SIGKILL, arguments.kills), (signal.SIGTERM, arguments.terms)):
            for form in arguments.forms if count else ():
                stream = await _run(shop, form, [number] * count, arguments)
                figures = await _account(shop, form, stream, arguments.late)
                found.setdefault(number.name, {})[form.name] = figures
                print(f"{number.name} {form.name}: {json.dumps(figures)}", file=sys.stderr)
    return found


async def _run(shop: Shop, form: Form, signals: list[signal.Signals], arguments: argparse.Namespace) -> Stream:
    """Enqueue a stream of jobs while workers get these signals; returns when all have ended, or the wait is over."""
    await shop.empty()
    began = datetime.now(UTC)
    async with working(form.system.command(), shop.place.environment) as workers:
        stream = Stream(workers.kills)
        while await shop.started(form, began) < WORKERS:
            await asyncio.sleep(_LOOK_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_produce(shop, form, stream, arguments.rate, arguments.seconds))
            tasks.create_task(workers.kill(signals, arguments.seconds))
        await _wait_until_idle(shop, form, arguments.wait)
    return stream


async def _produce(shop: Shop, form: Form, stream: Stream, rate: int, seconds: int) -> None:
    """Enqueue *rate* jobs a second for so many seconds."""
    began_s = time.monotonic()
    while (passed_s := time.monotonic() - began_s) < seconds:
        due = range(len(stream.enqueued_s), int(passed_s * rate))
        stream.enqueued_s.update(dict.fromkeys(due, time.time()))
        await shop.enqueue(form, due)
        await asyncio.sleep(_TICK_S)


async def _wait_until_idle(shop: Shop, form: Form, wait_s: float) -> None:
    """Wait until no job is queued or runs. A job that runs again counts, although it has a charge already."""
    until_s = time.monotonic() + wait_s
    while await shop.is_busy(form) and time.monotonic() < until_s:
        await asyncio.sleep(_LOOK_S)


async def _account(shop: Shop, form: Form, stream: Stream, late_s: float) -> dict[str, float]:
    """Compare the charges with the jobs of the stream."""
    rows = {row["order_id"]: row for row in await shop.database.fetch(_CHARGES)}
    delays_s = [row["charged_s"] - stream.enqueued_s[order_id] for order_id, row in rows.items()]
    doubled = [row for row in rows.values() if row["charges"] > form.charges]
    done = [row for row in rows.values() if row["charges"] >= form.charges]
    return {
        "jobs": len(stream.enqueued_s),
        "lost": len(stream.enqueued_s) - len(done),
        "doubled": len(doubled),
        "doubled_long_ended": sum(_from_a_kill_s(stream, row["charged_s"]) > ENDED_S for row in doubled),
        "late": sum(delay_s > late_s for delay_s in delays_s),
        "slowest_s": round(max(delays_s, default=0.0), 1),
    }


def _from_a_kill_s(stream: Stream, charged_s: float) -> float:
    """Return how long before or after the nearest kill a charge was made: PostgreSQL ends what a dead worker began."""
    return min((abs(kill.sent_s - charged_s) for kill in stream.kills), default=float("inf"))


if __name__ == "__main__":
    sys.exit(main())
