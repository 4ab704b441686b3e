"""What attacks over HTTP cost: `uv run python -m tests.bench.attacked front|worker [--seconds 5] [--attack NAME]`.

Each attack of `tests.attacks` is made at a front, or at the METRICS_PORT of a worker, on servers of its own. Printed
is a JSON document for each attack: by how many MB the process's memory grew, and for how long `/health/live` had to
wait, in ms. `--rounds N`, for a worker: also its jobs a second and its processor time a job, without and with the
attack, in turn, and their ratios. The attacker has a core of its own then, and all others share another one (on Linux):
otherwise the rate would show what the attacker's own work costs a small machine.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import psutil
from arq.connections import ArqRedis

from settings import Settings
from tests.attacks import CALLERS, Attack, under_attack
from tests.waiting import until
from tidepool import embedded
from tidepool.queue.connection import RedisClient

_ROOT = Path(__file__).parents[2]
_LOOK_S = 0.05
_BEGIN_S = 1.0
"""Seconds in which all callers of an attack have connected, after the first of them."""
_FIRST_CORE, _LAST_CORE = 0, (os.cpu_count() or 1) - 1
"""The cores of everybody else, and of the attacker, while rates are measured."""


def main() -> int:
    """Make the attacks one after another."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.attacked", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("victim", choices=("front", "worker"), help="process to attack")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="length of each attack in seconds (default 5)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=0,
        metavar="N",
        help="number of times that the worker's rate of jobs is measured without and with the attack (default 0)",
    )
    parser.add_argument(
        "--attack",
        choices=[attack.__name__ for attack in CALLERS],
        help="make this attack only (default: all, one after another)",
    )
    asked = parser.parse_args()
    if asked.rounds:
        _pin(_FIRST_CORE)
    chosen = [attack for attack in CALLERS if asked.attack in (None, attack.__name__)]
    with tempfile.TemporaryDirectory(prefix="attacked-") as home, embedded.join(Path(home)) as membership:
        for attack in chosen:
            with victim(asked.victim, membership.urls) as (process, port):
                seen = asyncio.run(measured(attack, process.pid, port, asked.seconds))
                if asked.rounds:
                    seen |= asyncio.run(_rates(attack, membership.urls, process.pid, port, asked.seconds, asked.rounds))
            print(json.dumps({"victim": asked.victim, "attack": attack.__name__, **seen}), flush=True)
    return 0


@contextmanager
def victim(kind: str, urls: embedded.Urls) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a front or a worker; gives its process and its HTTP port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    commands = {
        "front": ("producer", "serve", "--port", str(port)),
        "worker": ("arq", "worker.WorkerSettings"),
    }
    environment = Settings.child_environment(
        DATABASE_URL=urls.database, REDIS_URL=urls.redis, METRICS_PORT=str(port), LOG_LEVEL="WARNING"
    )
    process = subprocess.Popen((sys.executable, "-m", *commands[kind]), env=environment, cwd=_ROOT)
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait()


async def measured(attack: Attack, pid: int, port: int, seconds: float) -> dict[str, float]:
    """Attack for some seconds; returns how memory grew in MB, and how long `/health/live` took, in ms."""
    await _ready(port)
    before_mb = _memory_mb(pid)
    waits_ms: list[float] = []
    peak_mb = before_mb
    async with httpx.AsyncClient(timeout=30, headers={"Connection": "close"}) as http:
        with attacking(attack, port):
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                began_s = time.perf_counter()
                (await http.get(f"http://127.0.0.1:{port}/health/live")).raise_for_status()
                waits_ms.append((time.perf_counter() - began_s) * 1000)
                peak_mb = max(peak_mb, _memory_mb(pid))
                await asyncio.sleep(_LOOK_S)
    cuts = statistics.quantiles(waits_ms, n=20)
    return {
        "memory_grew_mb": round(peak_mb - before_mb, 1),
        "live_p50_ms": round(cuts[9], 1),
        "live_p95_ms": round(cuts[18], 1),
        "live_max_ms": round(max(waits_ms), 1),
    }


async def _ready(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        while True:
            try:
                if (await http.get("/health/ready")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(_LOOK_S)


@contextmanager
def attacking(attack: Attack, port: int, core: int | None = None) -> Iterator[None]:
    """Attack from a process of its own, which takes no time of the caller's; on *core*, if one is given.

    The block begins when the attack has connected: before, the imports of the new process take seconds, on the caller's
    core.
    """
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    process = context.Process(target=_attack, args=(attack.__name__, port, core, begun))
    process.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        process.kill()
        process.join()


def _pin(core: int) -> None:
    """Run this process, and those that it starts from now on, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _attack(name: str, port: int, core: int | None, begun: Event) -> None:
    if core is not None:
        _pin(core)

    async def connected() -> bool:
        return any(one.raddr and one.raddr.port == port for one in psutil.Process().net_connections("tcp"))

    async def run() -> None:
        (attack,) = (attack for attack in CALLERS if attack.__name__ == name)
        async with under_attack(attack, "127.0.0.1", port):
            await until(connected)
            await asyncio.sleep(_BEGIN_S)
            begun.set()
            await asyncio.Event().wait()

    asyncio.run(run())


async def _rates(
    attack: Attack, urls: embedded.Urls, pid: int, port: int, seconds: float, rounds: int
) -> dict[str, object]:
    """Return jobs a second of the worker that runs, without and with the attack, in turn, and how they compare.

    The worker's own processor time for each job is compared, too.
    """
    redis = RedisClient.open(urls.redis, queue_name="arq:queue")
    environment = Settings.child_environment(DATABASE_URL=urls.database, REDIS_URL=urls.redis)
    samples: dict[bool, list[tuple[int, float]]] = {False: [], True: []}
    for number in range(rounds):
        for is_attacked in (False, True) if number % 2 else (True, False):
            if await redis.zcard("arq:queue") < 40_000 * seconds:
                jobs = str(int(60_000 * seconds))
                enqueue = (sys.executable, "-m", "producer", "--jobs", jobs, "--json")
                await asyncio.to_thread(
                    subprocess.run, enqueue, env=environment, cwd=_ROOT, check=True, stdout=subprocess.DEVNULL
                )
            with attacking(attack, port, _LAST_CORE) if is_attacked else nullcontext():
                samples[is_attacked].append(await _rate(redis, pid, seconds))
    await redis.aclose(close_connection_pool=True)
    return {
        name: {
            "quiet": [sample[place] for sample in samples[False]],
            "attacked": [sample[place] for sample in samples[True]],
            "ratio": round(
                statistics.median(sample[place] for sample in samples[True])
                / statistics.median(sample[place] for sample in samples[False]),
                3,
            ),
        }
        for place, name in enumerate(("jobs_per_s", "cpu_us_per_job"))
    }


async def _rate(redis: ArqRedis, pid: int, seconds: float) -> tuple[int, float]:
    """Return jobs a second, and microseconds of the worker's processor time for each."""
    before, began_s, cpu_s = await redis.zcard("arq:queue"), time.perf_counter(), _cpu_s(pid)
    await asyncio.sleep(seconds)
    jobs = before - await redis.zcard("arq:queue")
    return round(jobs / (time.perf_counter() - began_s)), round((_cpu_s(pid) - cpu_s) / jobs * 1e6, 1)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
