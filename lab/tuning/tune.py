"""Runs `tune`: makes the measurements of a plan that are missing, and computes the report."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lab.bench.servers import SCHEMA, Site, session
from lab.tuning.arm import Arm, measure
from lab.tuning.knee import Knee, knee_of
from lab.tuning.record import Record
from lab.tuning.trials import DEFAULTS, Plan, trials
from tidepool.advice.study import Study
from tidepool.advice.verdict import PoolVerdict
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.storage import queries
from tidepool.storage.repositories import Repositories

_SQL = queries.load("lab", "lab.tuning")
_DRIFTED = 0.2
"""Max difference between controls, as a share of their median, with which the machine counts as steady."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The opinion of the service's pool advisor on a pool size. *advised* is the size that it recommends, or None."""

    verdict: str
    words: str
    advised: int | None


@dataclass(frozen=True, slots=True)
class Agreement(Judged):
    """The pool advisor's advice at the knee. *agrees* is whether it fits the measurements; None without advice."""

    agrees: bool | None


@dataclass(frozen=True, slots=True)
class TuningRow:
    """The medians of the valid measurements of one value. *arms* is their number; the other figures are as in `Arm`."""

    value: int
    arms: int
    jobs_per_second: int | None
    of_best: float | None
    """The rate as a share of the best rate."""
    lowest: float | None
    highest: float | None
    wait_ms: dict[str, float | None]
    latency_ms: dict[str, float | None]
    cpu: dict[str, float | None]
    memory_mb: dict[str, float | None]
    connections: dict[str, float | None]
    bound: str
    judged: Judged | None


@dataclass(frozen=True, slots=True)
class Drift:
    """The rates of the control value, in order, and their spread as a share of their median."""

    controls: list[float]
    spread: float
    steady: bool
    """Whether the spread is so small that the machine did not change during the run."""


@dataclass(frozen=True, slots=True)
class AgainstDefaults:
    """A comparison with the default settings of asyncpg and arq: the rate of jobs with these settings.

    *factor* is how many times as high the rate with the recommended value (the knee) is.
    """

    settings: dict[str, str]
    jobs_per_second: int
    factor: float


@dataclass
class TuningReport:
    """The report of a run. With `dataclasses.asdict` it is the document `report.json`."""

    plan: Plan
    arms: int
    """The number of measurements that were made, of the *of* that the plan has."""
    of: int
    invalid: dict[str, int]
    """The number of invalid measurements, by reason."""
    drift: Drift
    others: float | None
    """The cores that other programs of the machine used; None if that is not known."""
    rows: list[TuningRow]
    knee: Knee | None
    defaults: AgainstDefaults | None
    advisor: Agreement | None
    settings: dict[str, int]
    """The recommended settings; empty if none can be recommended."""
    plot: str | None = None
    """The path of the plot; None if none was drawn."""


async def measure_all(site: Site, record: Record, report_progress: Callable[[str], None]) -> bool:
    """Make all measurements that *record* does not have yet, and keep each at once.

    *report_progress* is called with a line on each. Returns True when all are made, False if it was cancelled before.
    """
    done = {arm.number for arm in record.arms}
    every = trials(record.plan)
    left = [trial for trial in every if trial.number not in done]
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in one"
    begun_s = time.monotonic()
    try:
        for count, trial in enumerate(left):
            began = datetime.now(UTC)
            arm = await measure(site, record.plan, trial)
            record.add(arm)
            if trial.kind == "defaults":
                await forget(site.urls.database, began)
            left_s = (time.monotonic() - begun_s) / (count + 1) * (len(left) - count - 1)
            report_progress(f"{trial.number + 1} of {len(every)}: {_said(record.plan, arm)}; {_duration(left_s)} left")
    except asyncio.CancelledError:
        task.uncancel()
        return False
    return True


async def forget(database_url: str, since: datetime) -> None:
    """Delete the pool snapshots of workers that were started since *since*, so that `advice` does not use them.

    It is called for workers with the default settings: they may have the same pool size as others, and would be judged
    together with them.
    """
    async with session(database_url) as connection:
        await connection.execute(_SQL["forget"], since)


async def advice(site: Site, since: datetime) -> dict[int, Judged]:
    """Return the advice of the service's pool advisor for each pool size, from all snapshots since *since*."""
    side = SideConnection(PoolConfig(url=site.urls.database, application_name="tidepool-lab", schema=SCHEMA), "advice")
    try:
        async with side.use() as connection:
            until = await Repositories(connection).server.clock()
            studies = await Study.read(connection, since=since, until=until)
    finally:
        await side.close()
    return {
        one.pool_limit: Judged(one.verdict, one.words, one.advice.size if one.advice else None)
        for one in await PoolVerdict.judge(studies)
    }


def report(record: Record, judged: dict[int, Judged]) -> TuningReport:
    """Return the report of a run: the plan, a row for each value, the knee, and the recommended settings.

    *judged* is the result of `advice`. The knee is the smallest value that is about as good as the best.
    """
    valid = [arm for arm in record.arms if not arm.invalid]
    measured = [arm for arm in valid if arm.kind == "value"]
    knee = knee_of(_rates(measured))
    return TuningReport(
        plan=record.plan,
        arms=len(record.arms),
        of=len(trials(record.plan)),
        invalid=dict(Counter(arm.invalid for arm in record.arms if arm.invalid)),
        drift=_drift([arm.jobs_per_second for arm in valid if arm.kind == "control"]),
        others=_median([used for arm in valid if (used := arm.cpu.get("others")) is not None]),
        rows=[_row(value, measured, knee, judged.get(value)) for value in record.plan.values],
        knee=knee,
        defaults=_against_defaults(knee, valid),
        advisor=_agreement(knee, judged),
        settings=_settings(record, knee),
    )


def _rates(arms: Sequence[Arm]) -> dict[int, dict[int, float]]:
    rates: dict[int, dict[int, float]] = {}
    for arm in arms:
        rates.setdefault(arm.value, {})[arm.round] = arm.jobs_per_second
    return rates


def _row(value: int, measured: Sequence[Arm], knee: Knee | None, judged: Judged | None) -> TuningRow:
    """Return the medians of all valid measurements of *value*."""
    arms = [arm for arm in measured if arm.value == value]
    rates = [arm.jobs_per_second for arm in arms]
    return TuningRow(
        value=value,
        arms=len(arms),
        jobs_per_second=round(knee.rates[value]) if knee and value in knee.rates else None,
        of_best=round(knee.rates[value] / knee.best, 3) if knee and value in knee.rates else None,
        lowest=min(rates, default=None),
        highest=max(rates, default=None),
        wait_ms=_medians([arm.wait_ms for arm in arms]),
        latency_ms=_medians([arm.latency_ms for arm in arms]),
        cpu=_medians([arm.cpu for arm in arms]),
        memory_mb=_medians([arm.memory_mb for arm in arms]),
        connections=_medians([arm.connections for arm in arms]),
        bound=Counter(arm.bound for arm in arms).most_common(1)[0][0] if arms else "",
        judged=judged,
    )


def _medians(parts: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    names = parts[0] if parts else {}
    return {name: _median([value for part in parts if (value := part.get(name)) is not None]) for name in names}


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 3) if values else None


def _drift(controls: Sequence[float]) -> Drift:
    """Return how far the measurements of the control value differ: the spread, and whether the machine was steady."""
    share = (max(controls) - min(controls)) / statistics.median(controls) if controls else 0.0
    return Drift(list(controls), spread=round(share, 3), steady=share <= _DRIFTED)


def _against_defaults(knee: Knee | None, valid: Sequence[Arm]) -> AgainstDefaults | None:
    """Return the rate with the default settings of asyncpg and arq, and how many times as high it is at the knee.

    Both are medians over the rounds. None if there is nothing to compare.
    """
    rates = _rates([arm for arm in valid if arm.kind == "defaults"]).get(0, {})
    best = _rates([arm for arm in valid if arm.kind == "value" and knee and arm.value == knee.size])
    at_knee = best.get(knee.size, {}) if knee else {}
    factors = [at_knee[number] / rate for number, rate in rates.items() if rate and number in at_knee]
    if not factors:
        return None
    return AgainstDefaults(
        settings=DEFAULTS,
        jobs_per_second=round(statistics.median(rates.values())),
        factor=round(statistics.median(factors), 1),
    )


def _agreement(knee: Knee | None, judged: dict[int, Judged]) -> Agreement | None:
    """Return the pool advisor's advice at the knee, and whether it agrees with the measurements."""
    said = judged.get(knee.size) if knee else None
    if knee is None or said is None:
        return None
    near = [knee.size, *knee.plateau]
    agrees = None if said.advised is None else min(near) <= said.advised <= max(near)
    return Agreement(said.verdict, said.words, said.advised, agrees)


def _settings(record: Record, knee: Knee | None) -> dict[str, int]:
    """Return the recommended settings; empty before all is measured, or if the noise is too large."""
    if knee is None or not knee.clear or len(record.arms) < len(trials(record.plan)):
        return {}
    return {record.plan.setting: knee.size}


def _said(plan: Plan, arm: Arm) -> str:
    what = "asyncpg's and arq's defaults" if arm.kind == "defaults" else f"{plan.setting}={arm.value}"
    fault = f" (does not count: {arm.invalid})" if arm.invalid else ""
    return f"{what}: {arm.jobs_per_second:,.0f} jobs/s{fault}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004  (a minute and a half)
