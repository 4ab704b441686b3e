"""The drill's arena and its run: what they start they stop, also where they are cut short."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.drill.arena import Arena, DrillWorker
from lab.drill.log import Log
from lab.drill.run import Drill, DrillError
from tidepool.cli.terminal import CommandError


class CutShort(Arena):
    """An arena whose second worker cannot be started."""

    async def _start(self, worker: DrillWorker) -> None:
        if worker.number:
            raise CommandError("cut short")
        await super()._start(worker)


async def test_a_start_that_is_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    """A redis-server stayed for good, without its directory, and with it the workers that had been started."""
    arena = CutShort(tmp_path, count=2, shots=1)
    with pytest.raises(CommandError, match="cut short"):
        async with arena:
            pytest.fail("it has started")
    first, _ = arena.workers
    assert first.process is not None
    assert first.process.returncode is not None
    assert arena.postgres.is_down()
    assert arena.redis_server.is_down()


class Waiting(Arena):
    """An arena without servers, in which all waiting ends in *ends*; its producers fail when their input ends."""

    ends: BaseException
    producers: list[asyncio.subprocess.Process]

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)

    async def start_producer(self, rate: float) -> asyncio.subprocess.Process:
        """Start what takes any commands."""
        assert rate
        words = (sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(1)")
        pipe = asyncio.subprocess.PIPE
        producer = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
        self.producers.append(producer)
        return producer

    async def until(self, condition: Any, wait_s: float = 0.0) -> None:
        """Wait for nothing."""
        assert condition
        assert wait_s
        raise self.ends


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    """Give an arena of two workers, which have said why they do not start."""
    arena = Waiting(tmp_path, count=2, shots=1)
    for number in range(2):
        nowhere: Any = None
        arena.workers.append(DrillWorker(number, nowhere, nowhere))
        (tmp_path / f"worker-{number}.log").write_text("Traceback …\nerror: POOL_SHARES: no such function\n", "utf-8")
    arena.producers = []
    return arena


@pytest.fixture
def drill(waiting: Waiting, tmp_path: Path) -> Iterator[Drill]:
    """Give a drill there."""
    log = Log(tmp_path / "log.jsonl", seed=1)
    yield Drill(waiting, log, rate=50, seed=1, report=lambda _line: None)
    log.close()


async def test_a_drill_that_is_cut_short_enqueues_nothing_more(waiting: Waiting, drill: Drill) -> None:
    """After Ctrl-C it waited for the producer, which Ctrl-C had ended as well, and enqueued all of it again."""
    waiting.ends = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await drill.repeat([], 1)
    assert [-9] == [producer.returncode for producer in waiting.producers]


async def test_workers_that_do_not_start_are_heard(waiting: Waiting, drill: Drill) -> None:
    """It was a traceback about time, and why they did not start was removed with their logs."""
    waiting.ends = TimeoutError()
    with pytest.raises(DrillError, match=r"no worker has done a job within 60 s; .* with: error: POOL_SHARES: no such"):
        await drill.repeat([], 1)
