"""One run, as `python -m producer` does it: enqueues commands, waits for the outcomes of their jobs, and counts both.

The workload is never in memory as a whole. Commands are read and enqueued in chunks. Only the ids of enqueued jobs are
kept, compressed; `Run.follow` takes up to 5000 of them at a time and asks the ledger which have an outcome. If outcomes
are not followed, no ids are kept.
"""

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from producer.commands_file import Item, RefusedLine
from producer.report import RunReport
from tidepool import MOST_AT_ONCE, JobClient, Submission

_WINDOW = 5000
"""Max jobs whose outcomes are asked for at a time."""
_POLL_DELAY_S = 0.1
_CHUNKS_PER_SECOND = 20
"""Round trips a second at a given rate: enough that the rate is even."""

Take = Callable[[int], Awaitable[list[Item]]]
"""A function that returns the next commands or refused lines, at most as many as its argument.

It waits until there is at least one. An empty list means that there are no more.
"""


class Run:
    """One run of the producer: enqueues commands, waits for the outcomes of their jobs, and counts both in *report*.

    *finished* looks up outcomes in the ledger. *refused* is called with each `RefusedLine`, a line that is no valid
    command.
    """

    def __init__(self, client: JobClient, report: RunReport, refused: Callable[[RefusedLine], None]) -> None:
        self._client = client
        self._report = report
        self._refused = refused
        self._ids = _Ids()
        self._all_enqueued = False
        self._begun_s = time.perf_counter()

    async def enqueue(self, take: Take, *, rate: float | None = None, concurrency: int = 1) -> None:
        """Enqueue the commands that *take* returns, until it returns none, and count them in the report.

        *rate* is the number of jobs to enqueue per second, None for as many as possible; *concurrency* is the max
        number of round trips at a time. Refused lines are passed to *refused*. Raises what *take* and
        `JobClient.enqueue_many` raise.
        """
        chunk_size = MOST_AT_ONCE if rate is None else max(1, min(MOST_AT_ONCE, int(rate / _CHUNKS_PER_SECOND)))
        slots = asyncio.Semaphore(concurrency)
        try:
            async with asyncio.TaskGroup() as sending:
                while await slots.acquire() and (chunk := await take(chunk_size)):
                    await self._keep_rate(rate)
                    sending.create_task(self._send(chunk)).add_done_callback(lambda _: slots.release())
        finally:
            self._report.enqueue_seconds = time.perf_counter() - self._begun_s
            self._all_enqueued = True

    async def follow(self) -> None:
        """Wait until every enqueued job of this run has an outcome, and add each outcome to the report as it comes.

        Run this concurrently with `enqueue`.
        """
        window: set[str] = set()
        while not self._all_enqueued or window or self._ids:
            window.update(self._ids.take(_WINDOW - len(window)))
            finished = await self._count_finished(window)
            self._report.run_seconds = time.perf_counter() - self._begun_s
            if finished < _WINDOW // 2:
                await asyncio.sleep(_POLL_DELAY_S)

    async def _send(self, chunk: Sequence[Item]) -> None:
        submissions: list[Submission] = []
        for item in chunk:
            if isinstance(item, RefusedLine):
                self._report.refused += 1
                self._refused(item)
            else:
                submissions.append(item)
        answers = await self._client.enqueue_many(submissions) if submissions else []
        if self._report.followed:
            self._ids.put([item.id for item, enqueued in zip(submissions, answers, strict=True) if enqueued])
        self._report.enqueued += sum(answers)
        self._report.duplicates += len(answers) - sum(answers)

    async def _keep_rate(self, rate: float | None) -> None:
        """Sleep until the next chunk is due."""
        if rate is not None:
            await asyncio.sleep(max(0.0, self._begun_s + self._report.given / rate - time.perf_counter()))

    async def _count_finished(self, window: set[str]) -> int:
        if not window:
            return 0
        finished = await self._client.finished(list(window))
        self._report.count(finished)
        window.difference_update(job.job_id for job in finished)
        return len(finished)


class _Ids:
    """A queue of the ids of enqueued jobs that `Run.follow` has not taken yet, compressed by round trip.

    It is in memory, so that no full disk can stop the run: a million ids of a generated workload take about 4 MB.
    """

    def __init__(self) -> None:
        self._blocks = deque[bytes]()
        self._unpacked = deque[str]()

    def put(self, ids: Sequence[str]) -> None:
        """Append *ids*, none of which contains a line break."""
        if ids:
            self._blocks.append(zlib.compress("\n".join(ids).encode("utf-8", "surrogatepass"), 1))

    def __bool__(self) -> bool:
        return bool(self._unpacked or self._blocks)

    def take(self, most: int) -> list[str]:
        """Remove and return the next ids, at most *most*."""
        while len(self._unpacked) < most and self._blocks:
            self._unpacked += zlib.decompress(self._blocks.popleft()).decode("utf-8", "surrogatepass").split("\n")
        return [self._unpacked.popleft() for _ in range(min(most, len(self._unpacked)))]
