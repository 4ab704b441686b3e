"""A function that returned more than 50 ms before its worker was killed is not run again: real processes, SIGKILL.

The 50 ms are counted while both processes that take part, the worker and Redis, can run. On a busy machine they may
wait for a processor for longer than that, which would measure the machine.
"""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from arq.connections import ArqRedis
from waiting import until

_WINDOW_NS = 50_000_000
_JOBS = 300
_PROGRAM = """
import asyncio, os, sys, time
from arq.connections import ArqRedis
from arq.worker import run_worker
from redis.asyncio import ConnectionPool
import tidepool

url, path = sys.argv[1:]
journal = os.open(path, os.O_WRONLY | os.O_APPEND)

async def job(ctx):
    await asyncio.sleep(0.002)
    os.write(journal, f"{ctx['job_id']} {time.monotonic_ns()}\\n".encode())

settings = {"functions": [job], "max_jobs": 20, "redis_pool": ArqRedis(ConnectionPool.from_url(url))}
run_worker(tidepool.adopt(settings, tidepool.EngineOptions(lease_s=1.0)))
"""


class Workers:
    """Worker processes, one after the other, and the journal in which their function notes its returns."""

    def __init__(self, redis_url: str, redis_pid: int, journal: Path) -> None:
        self._redis_url = redis_url
        self._redis_pid = redis_pid
        self._journal = journal
        journal.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a worker process."""
        self._process = subprocess.Popen([sys.executable, "-c", _PROGRAM, self._redis_url, str(self._journal)])

    def kill(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def returns(self) -> list[tuple[str, int]]:
        """Return the ids of jobs whose functions have returned, and when (monotonic nanoseconds)."""
        lines = (line.split() for line in self._journal.read_text().splitlines())
        return [(job_id, int(at_ns)) for job_id, at_ns in lines]

    async def kill_after(self, count: int) -> int:
        """Kill the process when so many functions have returned.

        Return the time (monotonic nanoseconds) since which the worker and Redis could run for 50 ms until the kill.
        """
        seen = [self._clock()]

        async def have_returned() -> bool:
            seen.append(self._clock())
            return len(self.returns()) >= count

        await until(have_returned, wait_s=60)
        killed_ns, waited_ns = self._clock()
        self.kill()
        return max(at_ns for at_ns, before_ns in seen if killed_ns - at_ns - (waited_ns - before_ns) >= _WINDOW_NS)

    def _clock(self) -> tuple[int, int]:
        """Return the time, and how long the worker and Redis have waited for a processor until then (nanoseconds)."""
        assert self._process is not None
        stats = (Path(f"/proc/{pid}/schedstat").read_text() for pid in (self._process.pid, self._redis_pid))
        return time.monotonic_ns(), sum(int(text.split()[1]) for text in stats)


@pytest.fixture
async def workers(redis: ArqRedis, redis_url: str, tmp_path: Path) -> AsyncIterator[Workers]:
    """Give worker processes; the last one is killed at the end."""
    workers = Workers(redis_url, (await redis.info("server"))["process_id"], tmp_path / "journal")
    yield workers
    workers.kill()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs the scheduler's statistics of Linux")
@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
async def test_what_has_returned_is_not_run_again(redis: ArqRedis, workers: Workers, rounds: int) -> None:
    """Nothing is lost, and what runs twice was running, or had returned within the last 50 ms."""
    safe: set[str] = set()
    for number in range(rounds):
        for job in range(_JOBS):
            await redis.enqueue_job("job", _job_id=f"{number}-{job}")
        returned = len(workers.returns())
        workers.start()
        safe_ns = await workers.kill_after(returned + random.randrange(1, _JOBS))
        of_round = workers.returns()[returned:]
        safe |= {job_id for job_id, at_ns in of_round if at_ns < safe_ns}
        workers.start()
        await until(_is_empty(redis), wait_s=60)
        workers.kill()
    runs = Counter(job_id for job_id, _ in workers.returns())
    assert rounds * _JOBS == len(runs)
    assert set() == {job_id for job_id in safe if runs[job_id] > 1}


def _is_empty(redis: ArqRedis) -> Callable[[], Awaitable[object]]:
    async def is_empty() -> bool:
        return not await redis.zcard("arq:queue")

    return is_empty
