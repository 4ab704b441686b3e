"""One run, as `python -m producer` does it: enqueues commands, waits for the outcomes of their jobs, and counts both.

The workload is never in memory as a whole. Commands are read and enqueued in chunks. Only the ids of enqueued jobs are
kept, compressed; `Run.follow` takes up to 5000 of them at a time and asks the ledger which have an outcome. If outcomes
are not followed, no ids are kept.
"""

import argparse
import asyncio
import sys
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import islice

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer import workload
from producer.commands_file import CommandReader, Item, Refusal
from producer.fleet import Fleet
from producer.report import Report
from settings import Settings
from tidepool import MOST_AT_ONCE, JobClient, Submission
from tidepool.cli import Context, FinishedJobs, print_json

_WINDOW = 5000
"""Max jobs whose outcomes are asked for at a time."""
_POLL_DELAY_S = 0.1
_CHUNKS_PER_SECOND = 20
"""Round trips a second at a given rate: enough that the rate is even."""
_MAX_REFUSALS = 20
"""Max number of refused lines that are printed one by one: about a screen."""

Take = Callable[[int], Awaitable[list[Item]]]
"""A function that returns the next commands or refused lines, at most as many as its argument.

It waits until there is at least one. An empty list means that there are no more.
"""


async def enqueue_and_follow(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Enqueue the jobs that the command line describes; with --follow, also wait for their outcomes.

    Prints the report and returns the exit status: 1 if a job failed or a command was refused, else 0.
    """
    settings = context.settings
    report = Report(seed=arguments.seed, followed=arguments.follow)
    refusals = _Refusals()
    async with context.finished_jobs("producer") as finished, context.client(finished) as client:
        log_dir = settings.data_dir / "logs"
        take = _source(arguments)
        with Fleet(arguments.workers, log_dir, client.bury) as fleet:
            concurrency = settings.simulation_concurrency if arguments.jobs else 1
            with _progress(report, arguments):
                run = Run(client, finished, report, refusals.add)
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(fleet.watch())
                    following = tasks.create_task(run.follow()) if arguments.follow else None
                    await run.enqueue(take, rate=arguments.rate, concurrency=concurrency)
                    if following is not None:
                        await following
                    watching.cancel()
    refusals.print_rest()
    if arguments.json:
        print_json(report.as_json())
    else:
        report.print()
    return report.exit_status


def _source(arguments: argparse.Namespace) -> Take:
    """Return the source of commands that the command line names. Raises `CommandError` if its file cannot be opened."""
    if arguments.file is not None:
        return CommandReader.open(arguments.file).take
    jobs = workload.generate(arguments.jobs, seed=arguments.seed, mix=arguments.mix)

    async def take(most: int) -> list[Item]:
        return list(islice(jobs, most))

    return take


class Run:
    """One run of the producer; it adds its counts to *report*.

    *finished* looks up outcomes in the ledger. *refused* is called with each `Refusal`, a line that is no valid
    command.
    """

    def __init__(
        self, client: JobClient, finished: FinishedJobs, report: Report, refused: Callable[[Refusal], None]
    ) -> None:
        self._client = client
        self._finished = finished
        self._report = report
        self._refused = refused
        self._ids = _Ids()
        self._all_enqueued = False
        self._begun_s = time.perf_counter()

    async def enqueue(self, take: Take, *, rate: float | None = None, concurrency: int = 1) -> None:
        """Enqueue all items that *take* returns, until it returns none.

        *rate* is the number of jobs to enqueue per second, None for as many as possible; *concurrency* is the max
        number of round trips at a time. Commands are counted in the report, and refused lines are passed on. Raises
        what *take* and `JobClient.enqueue_many` raise.
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
        """Wait until every enqueued job has an outcome, and add the outcomes to the report as they come.

        Run it concurrently with `enqueue`.
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
            if isinstance(item, Refusal):
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
        finished = await self._finished(list(window))
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


class _Refusals:
    """Prints refused lines and their reasons on standard error: the first 20 one by one, the others as a count."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, refusal: Refusal) -> None:
        self._count += 1
        if self._count <= _MAX_REFUSALS:
            field = f"{refusal.field}: " if refusal.field else ""
            print(f"line {refusal.line}: {field}{refusal.reason}", file=sys.stderr)

    def print_rest(self) -> None:
        if self._count > _MAX_REFUSALS:
            print(f"… and {self._count - _MAX_REFUSALS} more refused lines", file=sys.stderr)


@contextmanager
def _progress(report: Report, arguments: argparse.Namespace) -> Generator[None]:
    """Show progress bars on standard error while the block runs, if it is a terminal and the report is not JSON."""
    if arguments.json or not sys.stderr.isatty():
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        enqueued = progress.add_task("enqueued", total=arguments.jobs)
        finished = progress.add_task("finished", total=arguments.jobs, visible=arguments.follow)
        drawing = asyncio.ensure_future(_draw(progress, report, {enqueued: "given", finished: "finished"}))
        try:
            yield
        finally:
            drawing.cancel()


async def _draw(progress: Progress, report: Report, figures: dict[TaskID, str]) -> None:
    while True:
        for task, figure in figures.items():
            progress.update(task, completed=getattr(report, figure))
        await asyncio.sleep(0.1)
