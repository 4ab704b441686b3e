"""The command `python -m lab bench`: what it measures, in which order, and its report."""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import NotRequired, TypedDict

from lab.bench import pgbench
from lab.bench.acquire import acquire_us
from lab.bench.drain import Drained, Place, System, drain, preload_noops, start, stop, workers_cpu_s
from lab.bench.latency import idle_latency_ms
from lab.bench.servers import SCHEMA, measured_environment, own_databases, redis_info, session
from lab.percentiles import percentiles
from lab.progress import note
from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.queue.connection import RedisClient
from tidepool.settings import Settings
from worker import app

_OURS = System("tidepool", "worker.WorkerSettings")
_OURS_NOOP = System("tidepool", "lab.bench.targets.EngineNoop")
_DEFAULT = System("arq-default", "lab.bench.targets.ArqDefault", quiet=False)
_TUNED = System("arq-tuned", "lab.bench.targets.ArqTuned")
_TUNED_NOOP = System("arq-tuned", "lab.bench.targets.ArqTunedNoop")
_SHARE = {"tidepool": 1.0, "arq-tuned": 0.1, "arq-default": 0.02}
"""The share of `--jobs` that each system gets. Slow systems get fewer, so that all run for about as long."""
_MIXES = {"create_user": "create_user=1", "place_order": "create_user=2,create_product=1,place_order=7"}
_TRUNCATE = "TRUNCATE public.users, public.products, public.orders, public.job_results, public.pool_snapshots"
PARTS = ("create_user", "place_order", "noop", "pgbench", "latency", "acquire", "enqueue", "backlog", "scaling")


class _Rate(TypedDict):
    """Jobs or transactions per second: of each round, and their median."""

    median: int
    all: list[int]


class _RunFigures(TypedDict):
    """The figures of one system with one workload; pgbench has the rate alone."""

    system: str
    workload: str
    workers: int
    jobs: NotRequired[int]
    jobs_per_second: _Rate
    cpu_us_per_job: NotRequired[float]
    redis_cpu_us_per_job: NotRequired[float]
    redis_commands_per_job: NotRequired[float]
    peak_rss_mb: NotRequired[float]


class _Report(TypedDict):
    """The report of a benchmark. Figures that were not asked for with `--parts` are left out."""

    machine: dict[str, object]
    runs: list[_RunFigures]
    ratios: dict[str, float]
    latency_ms: NotRequired[dict[str, float]]
    idle_cpu_percent: NotRequired[float | None]
    acquire_us: NotRequired[dict[str, float]]
    enqueue_per_second: NotRequired[int]


@dataclass
class Bench:
    """One run of the benchmark: its databases, where its processes run, and its measurements so far."""

    arguments: argparse.Namespace
    redis: RedisClient
    urls: Urls
    place: Place
    drains: dict[tuple[str, str, int, int], list[Drained]] = field(default_factory=dict)
    transactions: dict[str, list[float]] = field(default_factory=dict)
    enqueue_rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    acquires_us: dict[str, list[float]] = field(default_factory=dict)
    idle_cpu_percent: float | None = None

    async def round(self, number: int) -> None:
        """Make each measurement that `--parts` asks for once. *number* is the number of the round, from 0."""
        for part in self.arguments.parts:
            note(f"round {number + 1} of {self.arguments.repeat}: {part}")
            if part in _MIXES:
                for system in (_OURS, _TUNED, _DEFAULT):
                    await self._jobs(system, part)
            elif part == "noop":
                for system in (_OURS_NOOP, _TUNED_NOOP):
                    await self._noops(system)
            elif part == "backlog":
                for backlog in (10_000, 100_000, 1_000_000):
                    await self._backlog(backlog)
            elif part == "scaling":
                for workers in (1, 2, 4):
                    await self._jobs(_OURS, "create_user", workers=workers)
            else:
                others = {
                    "pgbench": self._pgbench,
                    "latency": self._latency,
                    "acquire": self._acquire,
                    "enqueue": self._enqueue,
                }
                await others[part]()

    async def _jobs(self, system: System, workload: str, workers: int = 1) -> None:
        await self._reset()
        count = max(200, int(self.arguments.jobs * _SHARE[system.name]))
        await self._produce(count, workload)
        measured = await drain(self.redis, system, self.place, workers=workers)
        self.drains.setdefault((system.name, workload, workers, count), []).append(measured)

    async def _noops(self, system: System) -> None:
        await self._reset()
        count = max(200, int(self.arguments.jobs * _SHARE[system.name]))
        await preload_noops(self.redis, count)
        measured = await drain(self.redis, system, self.place)
        self.drains.setdefault((system.name, "noop", 1, count), []).append(measured)

    async def _backlog(self, backlog: int) -> None:
        """Measure the throughput of the first 9,000 jobs of a queue that has *backlog* jobs."""
        await self._reset()
        await self._produce(backlog, "create_user")
        measured = await drain(self.redis, _OURS, self.place, most_jobs=9_000)
        self.drains.setdefault((_OURS.name, "create_user-backlog", 1, backlog), []).append(measured)

    async def _pgbench(self) -> None:
        program = pgbench.find()
        if program is None:
            return
        for name, script in pgbench.SCRIPTS.items():
            await self._reset()
            rates = [
                await pgbench.transactions_per_second(program, self.urls.database, script, clients=c, seconds=2)
                for c in pgbench.CLIENTS
            ]
            self.transactions.setdefault(name, []).append(max(rates))

    async def _enqueue(self) -> None:
        await self._reset()
        self.enqueue_rates.append(await self._produce(max(100_000, self.arguments.jobs), "create_user"))

    async def _latency(self) -> None:
        await self._reset()
        worker = await start(_OURS, self.place)
        try:
            async with session(self.urls.database) as connection:
                await idle_latency_ms(self.redis, connection, worker, 20)  # the first ones prepare statements
                self.latencies += await idle_latency_ms(self.redis, connection, worker, 300)
            self.idle_cpu_percent = await _cpu_percent(worker, seconds=5.0)
        finally:
            await stop([worker])

    async def _acquire(self) -> None:
        await self._reset()
        config = PoolConfig(url=self.urls.database, application_name="tidepool-bench", schema=SCHEMA)
        for pool, us in (await acquire_us(config)).items():
            self.acquires_us.setdefault(pool, []).append(us)

    async def _produce(self, count: int, workload: str) -> float:
        """Enqueue *count* generated jobs with the real producer; return how many it enqueued per second."""
        command = (sys.executable, "-m", "producer", "--jobs", str(count), "--mix", _MIXES[workload], "--json")
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=self.place.environment
        )
        said, _ = await process.communicate()
        report = json.loads(said)
        return report["enqueued"] / report["enqueue_seconds"]

    async def _reset(self) -> None:
        """Empty the queue and the tables, and make a checkpoint, so that none falls into the measurement."""
        await self.redis.flushdb()
        async with session(self.urls.database) as connection:
            await connection.execute(_TRUNCATE)
            await connection.execute("CHECKPOINT")


async def bench(arguments: argparse.Namespace, _settings: Settings, urls: Urls) -> int:
    """Compare how many jobs per second this service, plain arq and PostgreSQL's own pgbench commit on this machine.

    create_user, place_order and noop are types of jobs, which one worker runs. latency is the time of a single job,
    acquire the time to get a connection from the pool, enqueue the rate of the producer. backlog measures with up to a
    million jobs in the queue, scaling with one, two and four workers. Uses new, temporary databases.
    """
    async with own_databases(urls) as (own, redis):
        await app.migrations.migrate(PoolConfig(url=own.database, application_name="tidepool-bench", schema=SCHEMA))
        environment = measured_environment(own.database, own.redis, LOG_LEVEL="WARNING")
        run = Bench(arguments, redis, own, Place(environment, tuple(arguments.pin or ())))
        for number in range(arguments.repeat):
            await run.round(number)
        document = _document(run, await _server_versions(redis, own))
    if arguments.json:
        terminal.print_json(document)
    else:
        _print(document)
    return 0


async def _cpu_percent(worker: asyncio.subprocess.Process, seconds: float) -> float:
    before_s = workers_cpu_s([worker])
    await asyncio.sleep(seconds)
    return round((workers_cpu_s([worker]) - before_s) / seconds * 100, 2)


async def _server_versions(redis: RedisClient, urls: Urls) -> dict[str, str]:
    info = await redis_info(redis, "server")
    async with session(urls.database) as connection:
        postgresql = str(await connection.fetchval("SHOW server_version"))
    return {"redis-server": info["redis_version"], "postgresql": postgresql}


def _document(run: Bench, servers: dict[str, str]) -> _Report:
    runs = [_run(key, drained) for key, drained in run.drains.items()]
    runs += [_pgbench_run(name, rates) for name, rates in run.transactions.items()]
    document: _Report = {"machine": _machine(run, servers), "runs": runs, "ratios": _ratios(runs)}
    if run.latencies:
        document["latency_ms"] = {**percentiles(run.latencies), "max": round(max(run.latencies), 2)}
        document["idle_cpu_percent"] = run.idle_cpu_percent
    if run.acquires_us:
        document["acquire_us"] = _acquire_us(run.acquires_us)
    if run.enqueue_rates:
        document["enqueue_per_second"] = round(statistics.median(run.enqueue_rates))
    return document


def _run(key: tuple[str, str, int, int], drained: list[Drained]) -> _RunFigures:
    system, workload, workers, jobs = key
    rates = [measured.jobs_per_second for measured in drained]
    middle = sorted(drained, key=lambda measured: measured.jobs_per_second)[len(drained) // 2]
    return {
        "system": system,
        "workload": workload,
        "workers": workers,
        "jobs": jobs,
        "jobs_per_second": {"median": round(statistics.median(rates)), "all": [round(rate) for rate in rates]},
        "cpu_us_per_job": round(middle.cpu_us_per_job, 1),
        "redis_cpu_us_per_job": round(middle.redis_cpu_us_per_job, 1),
        "redis_commands_per_job": round(middle.redis_commands_per_job, 2),
        "peak_rss_mb": round(middle.peak_rss_mb, 1),
    }


def _pgbench_run(name: str, rates: list[float]) -> _RunFigures:
    rate: _Rate = {"median": round(statistics.median(rates)), "all": [round(rate) for rate in rates]}
    return {"system": name, "workload": "create_user", "workers": 1, "jobs_per_second": rate}


def _acquire_us(rounds: dict[str, list[float]]) -> dict[str, float]:
    us = {pool: round(statistics.median(all_us), 1) for pool, all_us in rounds.items()}
    return {**us, "overhead": round(us["tidepool"] - us["asyncpg"], 1)}


def _ratios(runs: list[_RunFigures]) -> dict[str, float]:
    """Return the throughput of this service divided by that of each other system, by workload, for one worker."""
    rates = {(r["workload"], r["system"]): r["jobs_per_second"]["median"] for r in runs if r["workers"] == 1}
    return {
        f"{workload}: tidepool / {system}": round(rates[workload, "tidepool"] / rate, 2)
        for (workload, system), rate in rates.items()
        if system != "tidepool" and (workload, "tidepool") in rates
    }


def _machine(run: Bench, servers: dict[str, str]) -> dict[str, object]:
    return {
        "when": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "placement": f"workers on cores {run.place.cores}" if run.place.cores else "not pinned",
        "versions": {**servers, **{name: version(name) for name in ("arq", "asyncpg", "redis", "hiredis", "uvloop")}},
        "rounds": run.arguments.repeat,
    }


def _print(document: _Report) -> None:
    titles = ("workload", "system", "workers", "jobs", "jobs/s", "of", "CPU us/job", "Redis us/job", "peak MB")
    table = terminal.figures_table(titles, words=("workload", "system", "of"))
    for run in document["runs"]:
        rate = run["jobs_per_second"]
        spread = f"{min(rate['all']):,}-{max(rate['all']):,}"
        rest = (run.get("cpu_us_per_job", ""), run.get("redis_cpu_us_per_job", ""), run.get("peak_rss_mb", ""))
        jobs = f"{run['jobs']:,}" if "jobs" in run else ""
        row = (run["workload"], run["system"], run["workers"], jobs, f"{rate['median']:,}", spread, *rest)
        table.add_row(*map(str, row))
    terminal.console().print(table)
    if "acquire_us" in document:
        _print_acquires(document["acquire_us"])
    for name, value in {k: v for k, v in document.items() if k not in ("runs", "ratios", "acquire_us")}.items():
        print(f"\n{name}: {json.dumps(value)}")
    print("\n" + "\n".join(f"{name}: {ratio}" for name, ratio in document["ratios"].items()))


def _print_acquires(us: dict[str, float]) -> None:
    table = terminal.figures_table(("acquire and release", "us"), words=("acquire and release",))
    for pool, figure in us.items():
        table.add_row(pool, str(figure))
    print()
    terminal.console().print(table)
