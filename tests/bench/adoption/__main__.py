"""What an application gains by `adopt`: `uv run python -m tests.bench.adoption [--jobs 10000] [--repeat 6]`.

One worker of the shop in `examples/` drains `charge` jobs, each one INSERT: on stock arq with its fastest options and
uvloop, and moved with `tidepool.adopt` and the same options, in turn, on servers of its own. Printed is one JSON
document: the figures of each round and their medians, and the median of the rounds' ratios.
"""

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys

from lab.bench.drain import Drained, System, drain
from tests.bench.adoption.shop import SYSTEMS, Shop, open_shop

_EFFECTS = "SELECT count(DISTINCT order_id) AS charged, count(*) AS charges FROM charges"


class WrongEffectsError(Exception):
    """The charges are not those of the jobs."""


def main() -> int:
    """Measure both in turn; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, metavar="N", help="of a drain (default 10,000)")
    parser.add_argument("--repeat", type=int, default=6, metavar="R", help="rounds (default 6)")
    arguments = parser.parse_args()
    rounds = asyncio.run(_rounds(arguments.jobs, arguments.repeat))
    print(json.dumps(_report(rounds), indent=2))
    return 0


async def _rounds(jobs: int, repeat: int) -> list[dict[str, Drained]]:
    async with open_shop() as shop:
        return [{system.name: await _measure(shop, system, jobs) for system in SYSTEMS} for _ in range(repeat)]


async def _measure(shop: Shop, system: System, jobs: int) -> Drained:
    """Drain so many jobs. Raises `WrongEffectsError` if they are not one charge each."""
    await shop.empty()
    await shop.enqueue(range(jobs))
    drained = await drain(shop.redis, system, shop.place)
    effects = dict(await shop.database.fetchrow(_EFFECTS))
    if effects != {"charged": jobs, "charges": jobs}:
        raise WrongEffectsError(f"{system.name}: {effects} after {jobs} jobs")
    print(f"{system.name}: {drained.jobs_per_second:,.0f}/s", file=sys.stderr)
    return drained


def _report(rounds: list[dict[str, Drained]]) -> dict[str, object]:
    ratios = [one["moved"].jobs_per_second / one["stock"].jobs_per_second for one in rounds]
    figures = {
        system.name: {
            field.name: _figures([getattr(one[system.name], field.name) for one in rounds])
            for field in dataclasses.fields(Drained)
        }
        for system in SYSTEMS
    }
    return {**figures, "moved / stock": _figures(ratios)}


def _figures(numbers: list[float]) -> dict[str, object]:
    return {"median": round(statistics.median(numbers), 2), "all": [round(number, 2) for number in numbers]}


if __name__ == "__main__":
    sys.exit(main())
