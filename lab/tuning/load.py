"""A closed load: the number of jobs that are queued or running is constant, because each that ends is replaced."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from lab.bench.drain import enqueue
from tidepool.client import JobClient
from tidepool.jobs.submission import Submission

_LOOK_S = 0.01
_DRY_SHARE = 0.5


@dataclass
class ClosedLoad:
    """Keeps *in_flight* jobs queued or running: a new one is enqueued *think_s* seconds after each that ends.

    It polls the queue every 10 ms. Each item of *looks* is one poll: the event loop's time, the number of jobs that had
    ended by then, and the delay of the poll, in seconds.
    """

    client: JobClient
    jobs: Iterator[tuple[str, dict[str, object]]]
    """An endless iterator over the jobs to enqueue, each as its function and its fields."""
    in_flight: int
    think_s: float = 0.0
    ended: int = 0
    looks: list[tuple[float, int, float]] = field(default_factory=list)
    dry_looks: int = 0
    """The number of polls at which more than half of the jobs had ended since the last one: the load was too low."""
    _enqueued: int = 0

    async def run(self) -> None:
        """Enqueue jobs and poll until cancelled."""
        loop = asyncio.get_running_loop()
        thinking: deque[tuple[float, int]] = deque([(loop.time(), self.in_flight)])
        while True:
            due = 0
            while thinking and thinking[0][0] <= loop.time():
                due += thinking.popleft()[1]
            await self._enqueue(due)
            wake_s = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            late_s = loop.time() - wake_s
            if ended := await self._ended_since():
                thinking.append((loop.time() + self.think_s, ended))
            self.looks.append((loop.time(), self.ended, late_s))
            self.dry_looks += ended > _DRY_SHARE * self.in_flight and not self.think_s

    def begin(self) -> None:
        """Forget the polls so far. Call it when the measurement begins."""
        self.looks.clear()
        self.dry_looks = 0

    async def _ended_since(self) -> int:
        ended = self._enqueued - await self.client.queued()
        since, self.ended = ended - self.ended, ended
        return since

    async def _enqueue(self, count: int) -> None:
        """Enqueue *count* jobs."""
        jobs = enumerate(islice(self.jobs, count), start=self._enqueued)
        await enqueue(self.client, (Submission(f"lab-{number}", *job) for number, job in jobs))
        self._enqueued += count
