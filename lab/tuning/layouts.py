"""Measures the same number of connections as one pool, as several pools of one process, and as several processes."""

import asyncio
import json
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from lab.bench.drain import stop
from lab.bench.processes import family_cpu_s, family_mb, machine_busy_s
from lab.bench.servers import Site
from lab.tuning.holders import HeldFigures, HolderCounts, figures
from lab.tuning.shard import ShardFigures, ShardTask
from tidepool.cli.terminal import CommandError
from tidepool.settings import Settings


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to divide connections: *processes* processes, each with *pools* pools."""

    processes: int
    pools: int

    @property
    def name(self) -> str:
        """The name of the layout in tables, such as "4 pools"."""
        if self.processes > 1:
            return f"{self.processes} processes"
        return f"{self.pools} pools" if self.pools > 1 else "1 pool"


@dataclass(frozen=True, slots=True)
class Demand:
    """The load on each layout, and the number of connections that it divides.

    *load* is the share of the connections that would be in use if no caller had to wait for one.
    """

    connections: int
    callers: int
    load: float
    hold_ms: float
    seconds: float
    seed: int

    @property
    def think_ms(self) -> float:
        """The mean pause of a caller between two uses of a connection, in milliseconds, which results in *load*."""
        return max(0.0, self.hold_ms * (self.callers / (self.load * self.connections) - 1))


class LayoutFigures(HeldFigures):
    """The figures of a layout: waits in ms, CPU in cores, memory in MB. *size* is the connections of each pool."""

    layout: str
    processes: int
    pools: int
    size: int
    wait_mean_ms: float
    cpu: float
    memory_mb: int
    postgresql_cpu: float | None
    postgresql_mb: int | None
    others_cpu: float | None


def layouts(shards: Sequence[int]) -> list[Layout]:
    """Return the layouts to compare: one pool, and for each k in *shards* a process with k pools, and k processes."""
    return [Layout(1, 1), *(layout for k in shards for layout in (Layout(1, k), Layout(k, 1)))]


async def measure(site: Site, layout: Layout, demand: Demand) -> LayoutFigures:
    """Run one layout under *demand* and return its figures: waits in ms, CPU in cores, memory in MB.

    Raises `CommandError` if one of its processes fails.
    """
    task = ShardTask(
        url=site.urls.database,
        pools=layout.pools,
        size=demand.connections // (layout.pools * layout.processes),
        holders=demand.callers // layout.processes,
        hold_ms=demand.hold_ms,
        think_ms=demand.think_ms,
        seconds=demand.seconds,
        seed=demand.seed,
    )
    shards = [await _start() for _ in range(layout.processes)]
    try:
        for number, shard in enumerate(shards):
            await _tell(shard, json.dumps({**asdict(task), "seed": demand.seed + number}))
        for shard in shards:
            await _hear(shard, b"ready")
        return await _measured(site, layout, task, shards)
    finally:
        await stop(shards, signal.SIGKILL)


async def _measured(
    site: Site, layout: Layout, task: ShardTask, shards: Sequence[asyncio.subprocess.Process]
) -> LayoutFigures:
    postgres = site.postgres_pid
    cpu_s, busy_s = family_cpu_s(postgres) if postgres else None, machine_busy_s()
    memory_mb = round(family_mb(postgres)) if postgres else None
    for shard in shards:
        await _tell(shard, "go")
    said = await asyncio.gather(*(_said(shard) for shard in shards))
    used_s = family_cpu_s(postgres) - cpu_s if postgres and cpu_s is not None else None
    busy_s = machine_busy_s() - busy_s
    held = HolderCounts(seconds=max(one["seconds"] for one in said))
    for one in said:
        held.succeeded += one["succeeded"]
        held.timed_out += one["timed_out"]
        held.failed += one["failed"]
        held.waits_ms += one["waits_ms"]
    return {
        "layout": layout.name,
        "processes": layout.processes,
        "pools": layout.processes * layout.pools,
        "size": task.size,
        **figures(held),
        "wait_mean_ms": round(sum(held.waits_ms) / max(1, len(held.waits_ms)), 2),
        "cpu": round(sum(one["cpu"] for one in said), 2),
        "memory_mb": round(sum(one["memory_mb"] for one in said)),
        "postgresql_cpu": None if used_s is None else round(used_s / held.seconds, 2),
        "postgresql_mb": memory_mb,
        "others_cpu": None if used_s is None else _others(busy_s - used_s, held.seconds, said),
    }


def _others(busy_s: float, seconds: float, said: Sequence[ShardFigures]) -> float:
    """Return the number of cores that other work on the machine used: neither PostgreSQL nor the layout's processes."""
    return round(max(0.0, busy_s / seconds - sum(one["cpu"] for one in said)), 2)


def medians(rounds: Sequence[LayoutFigures]) -> LayoutFigures:
    """Return the median of each figure of a layout over several rounds. Counts are summed instead."""
    return cast("LayoutFigures", _medians(rounds))


def _medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: _middle(name, [one[name] for one in rounds]) for name in rounds[0]}


def _middle(name: str, values: Sequence[Any]) -> Any:
    if name in ("succeeded", "timed_out", "failed"):
        return sum(values)
    if isinstance(values[0], dict):
        return _medians([value for value in values if value] or values[:1])
    alike = values.count(values[0]) == len(values)  # sizes stay whole numbers
    return values[0] if alike or values[0] is None else round(statistics.median(values), 2)


async def _start() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lab.tuning.shard"),
        stdin=pipe,
        stdout=pipe,
        env=Settings.child_environment(),
        limit=2**26,
    )


async def _tell(shard: asyncio.subprocess.Process, line: str) -> None:
    assert shard.stdin is not None
    shard.stdin.write(f"{line}\n".encode())
    await shard.stdin.drain()


async def _hear(shard: asyncio.subprocess.Process, word: bytes) -> None:
    assert shard.stdout is not None
    if word not in await shard.stdout.readline():
        raise CommandError("a process of the layout could not open its pools; what it says is above")


async def _said(shard: asyncio.subprocess.Process) -> ShardFigures:
    assert shard.stdout is not None
    line = await shard.stdout.readline()
    if not line:
        raise CommandError("a process of the layout ended; what it says is above")
    return json.loads(line)
