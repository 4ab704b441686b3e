"""Counts the outcomes and batches of one process since it started: figures for its snapshots.

Counters only grow, as those of `tidepool.pool.figures` do, so that any window is a subtraction. Durations are
microseconds.
"""

import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tidepool.jobs.command import Command
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Failed, Outcome, Rejected
from tidepool.pool.figures import BOUNDS_US, empty_histogram

_OTHERS = "(others)"
"""The name for all functions that are no job type of this process, since a client may invent any number of names."""


@dataclass(slots=True)
class Tally:
    """Outcomes that this process committed since it started, and tries that are to be repeated."""

    applied: int = 0
    rejected: int = 0
    failed: int = 0
    retried: int = 0
    functions: dict[str, list[int]] = field(default_factory=dict[str, list[int]], compare=False)
    """The same four by function."""
    known: Collection[str] = field(default=(), compare=False)
    """Functions that are counted by their own names."""

    def name_of(self, function: str) -> str:
        """Return the name under which *function* is counted: its own, or one for all that are not known."""
        return function if function in self.known else _OTHERS

    def add(self, outcomes: Sequence[Outcome], function: str = _OTHERS, *, retried: int = 0) -> None:
        """Count the *outcomes* of a batch, and how many of its jobs are to be *retried*."""
        applied = sum(isinstance(outcome, Applied) for outcome in outcomes)
        rejected = sum(isinstance(outcome, Rejected) for outcome in outcomes)
        failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
        self.applied += applied
        self.rejected += rejected
        self.failed += failed
        self.retried += retried
        counts = self.functions.setdefault(self.name_of(function), [0, 0, 0, 0])
        counts[0] += applied
        counts[1] += rejected
        counts[2] += failed
        counts[3] += retried

    def figures(self) -> dict[str, object]:
        """Return the counts as columns of `pool_snapshots`."""
        return {
            "jobs_applied": self.applied,
            "jobs_rejected": self.rejected,
            "jobs_failed": self.failed,
            "jobs_retried": self.retried,
            "functions": {name: list(counts) for name, counts in self.functions.items()},
        }


@dataclass(slots=True)
class BatchFigures:
    """What the batcher did: batches that left, and how long their jobs had waited for that."""

    batches: int = 0
    batch_jobs: int = 0
    batch_wait_us_sum: int = 0
    batch_wait_us_max: int = 0
    batch_wait_hist: list[int] = field(default_factory=empty_histogram)

    def left(self, batch: Sequence[Job[Command]]) -> None:
        """Count a batch that leaves now, and note the time in its jobs."""
        now_ns = time.perf_counter_ns()
        hist = self.batch_wait_hist
        total_us = longest_us = 0
        for job in batch:
            job.left_ns = now_ns
            us = (now_ns - job.started_ns) // 1000
            hist[bisect_left(BOUNDS_US, us)] += 1
            total_us += us
            longest_us = max(longest_us, us)
        self.batches += 1
        self.batch_jobs += len(batch)
        self.batch_wait_us_sum += total_us
        self.batch_wait_us_max = max(self.batch_wait_us_max, longest_us)

    def take_figures(self, pending: int = 0) -> dict[str, object]:
        """Return every figure as a column of `pool_snapshots`, with the jobs *pending* now; a new peak begins."""
        figures: dict[str, object] = {
            "batches": self.batches,
            "batch_jobs": self.batch_jobs,
            "batch_wait_us_sum": self.batch_wait_us_sum,
            "batch_wait_us_max": self.batch_wait_us_max,
            "batch_wait_hist": list(self.batch_wait_hist),
            "batch_pending": pending,
        }
        self.batch_wait_us_max = 0
        return figures
