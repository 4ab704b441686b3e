"""Measures one arm of an experiment: workers with one value of a setting, under a closed load, once they are warm.

An arm is one measurement. A closed load keeps the number of jobs in the system constant.
"""

import asyncio
import os
import statistics
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from lab.bench.drain import require_running, workers_cpu_s
from lab.bench.processes import cpu_s, family_cpu_s, family_mb, machine_busy_s, peak_mb
from lab.bench.servers import SCHEMA, Site, redis_info
from lab.tuning.load import ClosedLoad
from lab.tuning.mix import jobs
from lab.tuning.trials import Kind, Plan, Trial
from lab.tuning.workers import running_workers
from tidepool.cli.terminal import CommandError
from tidepool.client import JobClient
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.storage import queries

SHARES = (0.5, 0.95, 0.99)
_SQL = queries.load("lab", "lab.tuning")
_WARM_S = 1.0
_START_WAIT_S = 60.0
_LOOK_S = 0.05
_SLICE_S = 0.5
_TICKS = 20
_MOST_CLIENT_CPU, _MOST_CLIENT_LAG_MS, _MOST_DRY = 0.8, 50.0, 0.05
_LAG_SHARE = 0.95
_BUSY_CORE, _BUSY_POOL = 0.85, 0.9
_BUSY_MACHINE = 0.9


@dataclass(frozen=True, slots=True)
class Arm:
    """The measurements of one trial, which is one measured run of the workers with given settings.

    Rates are jobs per second, CPU is in cores, times are milliseconds, memory is in MB.
    """

    number: int
    round: int
    value: int
    kind: Kind
    jobs_per_second: float
    wait_ms: dict[str, float]
    """Percentiles of the time that a job waited until its batch had a connection."""
    latency_ms: dict[str, float]
    """Percentiles of a job's time from when it was due until it was committed."""
    cpu: dict[str, float | None]
    """Cores used by all workers, PostgreSQL, Redis, the client that makes the load, and others on this machine.

    None if it cannot be measured.
    """
    memory_mb: dict[str, float | None]
    connections: dict[str, float]
    """Connections of all pools together: `open` and `in_use_max` are maxima, `in_use` is the average."""
    client_lag_ms: float
    """95th percentile of the delays of the client's event loop, in milliseconds. Large delays make the arm invalid."""
    bound: str
    """The bottleneck, as far as the figures show it: `pool`, `worker`, `machine`, or empty if it is not known."""
    invalid: str
    """The reason why the measurement is not valid; empty if it is."""

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Return the arm that is stored in *document*, a dictionary made by `dataclasses.asdict`."""
        return cls(**document)


async def measure(site: Site, plan: Plan, trial: Trial) -> Arm:
    """Empty the servers, start workers with the trial's settings, and measure them under load for `plan.seconds`.

    Raises `CommandError` if the workers do not start, or end.
    """
    await site.reset()
    load = ClosedLoad(JobClient(site.redis), jobs(plan.mix), plan.in_flight, plan.think_ms / 1000)
    side = SideConnection(PoolConfig(url=site.urls.database, application_name="tidepool-lab", schema=SCHEMA), "arm")
    watching = {"ENABLE_MONITORING": "true", "STATS_INTERVAL": f"{max(0.1, plan.seconds / _TICKS):.3f}"}
    variables = {**plan.variables(trial), **watching}
    async with running_workers(site, plan.workers(trial), **variables) as workers, _running(load) as running:
        try:
            await _warm(side, workers, running)
            load.begin()
            first = await _look(site, workers)
            await _wait(running, plan.seconds)
            last = await _look(site, workers)
            return await _read(side, plan, trial, load, first, last)
        finally:
            await side.close()


@asynccontextmanager
async def _running(load: ClosedLoad) -> AsyncGenerator[asyncio.Task[None]]:
    """Run *load* in a task while the block runs. `_wait` raises its error if it fails."""
    running = asyncio.create_task(load.run(), name="closed load")
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _wait(running: asyncio.Task[None], seconds: float) -> None:
    """Wait for *seconds* while the load runs. Raises its error if it fails meanwhile."""
    done, _ = await asyncio.wait({running}, timeout=seconds)
    for task in done:
        task.result()


async def _warm(
    side: SideConnection, workers: Sequence[asyncio.subprocess.Process], running: asyncio.Task[None]
) -> None:
    """Wait until all workers have committed jobs, and one second longer.

    Raises `CommandError` if they have not after 60 s.
    """
    since = datetime.now(UTC)
    try:
        async with asyncio.timeout(_START_WAIT_S):
            while await _started(side, since) < len(workers):
                require_running(workers)
                await _wait(running, _LOOK_S)
    except TimeoutError:
        raise CommandError(f"the workers committed nothing within {_START_WAIT_S:.0f} s") from None
    await _wait(running, _WARM_S)


async def _started(side: SideConnection, since: datetime) -> int:
    async with side.use() as connection:
        return await connection.fetchval(_SQL["started"], since)


@dataclass(frozen=True, slots=True)
class _MachineReading:
    """A reading of clocks, CPU times and memory at one moment."""

    at: datetime
    loop_s: float
    cpu_s: dict[str, float | None]
    memory_mb: dict[str, float | None] = field(repr=False)


async def _look(site: Site, workers: Sequence[asyncio.subprocess.Process]) -> _MachineReading:
    info = await redis_info(site.redis)
    postgres = site.postgres_pid
    ours: dict[str, float | None] = {
        "worker": workers_cpu_s(workers),
        "postgresql": family_cpu_s(postgres) if postgres else None,
        "redis": info["used_cpu_user"] + info["used_cpu_sys"],
        "client": cpu_s(os.getpid()),
    }
    others_s = machine_busy_s() - sum(used_s or 0.0 for used_s in ours.values()) if postgres else None
    return _MachineReading(
        at=datetime.now(UTC),
        loop_s=asyncio.get_running_loop().time(),
        cpu_s={**ours, "others": others_s},
        memory_mb={
            "worker": round(sum(peak_mb(worker.pid) for worker in workers), 1),
            "postgresql": round(family_mb(postgres), 1) if postgres else None,
            "redis": round(info["used_memory"] / 2**20, 1),
        },
    )


async def _read(
    side: SideConnection, plan: Plan, trial: Trial, load: ClosedLoad, first: _MachineReading, last: _MachineReading
) -> Arm:
    """Compute the result of the trial from the readings at its beginning and its end, and from the database."""
    async with side.use() as connection:
        done = await connection.fetchrow(_SQL["jobs"], first.at, last.at, list(SHARES))
        pools = await connection.fetchrow(_SQL["pools"], first.at)
    assert done is not None, "an aggregate has a row"
    assert pools is not None, "the same"
    cpu = {who: _cores(first, last, who) for who in first.cpu_s}
    lag_ms = _client_lag_ms(load)
    return Arm(
        number=trial.number,
        round=trial.round,
        value=trial.value,
        kind=trial.kind,
        jobs_per_second=round(rate_of(load.looks, _slice_s(plan)), 1),
        wait_ms=_quantiles(done["wait_us"]),
        latency_ms=_quantiles(done["latency_us"]),
        cpu=cpu,
        memory_mb=last.memory_mb,
        connections={name: round(float(pools[name]), 2) for name in ("open", "in_use_max", "in_use")},
        client_lag_ms=round(lag_ms, 1),
        bound=bound_by(cpu, plan.workers(trial), float(pools["in_use"]) / max(1, pools["pool_limit"])),
        invalid=fault_of(done["jobs"], done["not_applied"], cpu["client"] or 0.0, lag_ms, load),
    )


def _slice_s(plan: Plan) -> float:
    """Return the length of the slices in which the rate is measured, in seconds.

    With a think time jobs come in waves, and a slice has several of them.
    """
    return min(max(_SLICE_S, 3 * plan.think_ms / 1000), plan.seconds / 2)


def rate_of(looks: Sequence[tuple[float, int, float]], slice_s: float) -> float:
    """Return the rate in jobs per second: the median over slices of *slice_s* seconds.

    So a short stall of the machine does not change it. *looks* are those of `ClosedLoad`.
    """
    if not looks:
        return 0.0
    rates: list[float] = []
    begun_s, ended_then, _ = looks[0]
    for at_s, ended, _ in looks:
        if at_s - begun_s >= slice_s:
            rates.append((ended - ended_then) / (at_s - begun_s))
            begun_s, ended_then = at_s, ended
    return statistics.median(rates) if rates else 0.0


def fault_of(jobs: int, not_applied: int, client_cpu: float, lag_ms: float, load: ClosedLoad) -> str:
    """Return the reason why a measurement does not show what the workers can do; empty if it does."""
    if not jobs or not load.looks:
        return "no job ended"
    if not_applied:
        return "jobs were not applied"
    if client_cpu > _MOST_CLIENT_CPU:
        return "the client's core was full"
    if lag_ms > _MOST_CLIENT_LAG_MS:
        return "the client's loop was late"
    if load.dry_looks > _MOST_DRY * len(load.looks):
        return "the queue ran dry: ask for more --in-flight"
    return ""


def bound_by(cpu: dict[str, float | None], workers: int, pool_use: float) -> str:
    """Return what limits the workers: the first of `pool`, `worker` and `machine` that is used up; empty if none is."""
    if pool_use >= _BUSY_POOL:
        return "pool"
    if (cpu["worker"] or 0.0) >= _BUSY_CORE * workers:
        return "worker"
    if sum(used or 0.0 for used in cpu.values()) >= _BUSY_MACHINE * (os.cpu_count() or 1):
        return "machine"
    return ""


def _cores(first: _MachineReading, last: _MachineReading, who: str) -> float | None:
    before, after = first.cpu_s[who], last.cpu_s[who]
    return None if before is None or after is None else round((after - before) / (last.loop_s - first.loop_s), 3)


def _client_lag_ms(load: ClosedLoad) -> float:
    lags_s = sorted(late_s for _, _, late_s in load.looks)
    return lags_s[int(_LAG_SHARE * len(lags_s))] * 1000 if lags_s else 0.0


def _quantiles(us: Sequence[float] | None) -> dict[str, float]:
    return {f"p{100 * share:.0f}": round(value / 1000, 2) for share, value in zip(SHARES, us or (), strict=False)}
