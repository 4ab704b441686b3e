"""A closed load: so many jobs are in the queue or running at any time, and each that ends is replaced."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lab.bench.drain import enqueue
from tidepool.client import JobClient
from tidepool.queue.submission import Submission

_LOOK_S = 0.01
_DRY_SHARE = 0.5


@dataclass
class ClosedLoad:
    """Enqueues so many of *jobs*, and a new one *think_s* after each that ends, as far as a look each 10 ms sees.

    `looks` has the loop's time, the jobs that had ended by then, and by how much the look was late (seconds).
    """

    client: JobClient
    jobs: Iterator[tuple[str, dict[str, Any]]]
    """Functions and fields, without end."""
    in_flight: int
    think_s: float = 0.0
    ended: int = 0
    looks: list[tuple[float, int, float]] = field(default_factory=list)
    dry_looks: int = 0
    """At which more than half of the jobs had ended since the look before: the load was not what it says."""
    _enqueued: int = 0

    async def run(self) -> None:
        """Go on until cancelled."""
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
        """Forget the looks so far: what is measured begins now."""
        self.looks.clear()
        self.dry_looks = 0

    async def _ended_since(self) -> int:
        ended = self._enqueued - await self.client.queued()
        since, self.ended = ended - self.ended, ended
        return since

    async def _enqueue(self, count: int) -> None:
        """Enqueue so many more jobs."""
        jobs = enumerate(islice(self.jobs, count), start=self._enqueued)
        await enqueue(self.client, (Submission(f"lab-{number}", *job) for number, job in jobs))
        self._enqueued += count
