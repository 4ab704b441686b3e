"""What an application gains by `adopt`: `uv run python -m tests.bench.adoption [--jobs 10000] [--repeat 6]`.

One worker of the shop in `examples/` drains `charge` jobs, each one INSERT, in several forms in turn, on servers of its
own: `stock` arq with its fastest options and uvloop; `moved` with `tidepool.adopt` and the same options; and as a job
of a `tidepool.App`, with exactly-once effects: `job` has a transaction for each job, `share` one for up to 100 jobs
with a savepoint each, and `batch` one INSERT for a batch; `session` works on a session of SQLAlchemy, `complete` is a
function that completes its job at its end, and `chain` (for kills only) three jobs of which each enqueues the next with
its commit. Printed is one JSON document: the figures of each round and their medians, and of each form the median of
the rounds' ratios to the first one.
"""

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys

from lab.bench.drain import Drained, drain
from tests.bench.adoption.shop import Form, Shop, add_forms, open_shop

_EFFECTS = "SELECT count(DISTINCT order_id) AS charged, count(*) AS charges FROM charges"


class WrongEffectsError(Exception):
    """The charges are not those of the jobs."""


def main() -> int:
    """Measure both in turn; prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, metavar="N", help="of a drain (default 10,000)")
    parser.add_argument("--repeat", type=int, default=6, metavar="R", help="rounds (default 6)")
    add_forms(parser, "stock,moved,job,share,batch")
    arguments = parser.parse_args()
    rounds = asyncio.run(_rounds(arguments.forms, arguments.jobs, arguments.repeat))
    print(json.dumps(_report(arguments.forms, rounds), indent=2))
    return 0


async def _rounds(forms: list[Form], jobs: int, repeat: int) -> list[dict[str, Drained]]:
    async with open_shop() as shop:
        return [{form.name: await _measure(shop, form, jobs) for form in forms} for _ in range(repeat)]


async def _measure(shop: Shop, form: Form, jobs: int) -> Drained:
    """Drain so many jobs. Raises `WrongEffectsError` if they are not one charge each."""
    await shop.empty()
    await shop.enqueue(form, range(jobs))
    drained = await drain(shop.redis, form.system, shop.place)
    effects = dict(await shop.database.fetchrow(_EFFECTS))
    if effects != {"charged": jobs, "charges": jobs * form.charges}:
        raise WrongEffectsError(f"{form.name}: {effects} after {jobs} jobs")
    print(f"{form.name}: {drained.jobs_per_second:,.0f}/s", file=sys.stderr)
    return drained


def _report(forms: list[Form], rounds: list[dict[str, Drained]]) -> dict[str, object]:
    first, *others = [form.name for form in forms]
    ratios = {
        f"{other} / {first}": _figures([one[other].jobs_per_second / one[first].jobs_per_second for one in rounds])
        for other in others
    }
    figures = {
        form.name: {
            field.name: _figures([getattr(one[form.name], field.name) for one in rounds])
            for field in dataclasses.fields(Drained)
        }
        for form in forms
    }
    return {**figures, **ratios}


def _figures(numbers: list[float]) -> dict[str, object]:
    return {"median": round(statistics.median(numbers), 2), "all": [round(number, 2) for number in numbers]}


if __name__ == "__main__":
    sys.exit(main())
