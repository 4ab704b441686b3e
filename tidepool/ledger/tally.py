"""Counts the outcomes and batches of one process since it started, for its snapshots.

The counters only grow, so that the figures of a period are a subtraction. Durations are microseconds.
"""

import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Failed, Outcome, Rejected
from tidepool.pool.figures import BOUNDS_US, empty_histogram

_OTHERS = "(others)"
"""The name for all functions that are no job type of this process, since a client may invent any number of names."""


@dataclass(slots=True)
class Tally:
    """Counts the outcomes that this process has committed, and the attempts after which a job is run again."""

    applied: int = 0
    rejected: int = 0
    failed: int = 0
    retried: int = 0
    functions: dict[str, list[int]] = field(default_factory=dict[str, list[int]], compare=False)
    """By function: the same four counts."""
    known: Collection[str] = field(default=(), compare=False)
    """Functions that are counted under their own names."""

    def name_of(self, function: str) -> str:
        """Return the name under which *function* is counted: its own, or one for all that are not known."""
        return function if function in self.known else _OTHERS

    def add(self, outcomes: Sequence[Outcome], function: str = _OTHERS, *, retried: int = 0) -> None:
        """Count the *outcomes* of a batch of *function*, and how many of its jobs are *retried*."""
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
    """Counts the batches that left the batcher, and measures how long their jobs had waited for it."""

    batches: int = 0
    batch_jobs: int = 0
    batch_wait_us_sum: int = 0
    batch_wait_us_max: int = 0
    batch_wait_hist: list[int] = field(default_factory=empty_histogram)

    def left(self, batch: Sequence[Job]) -> None:
        """Count a batch that leaves now, and set the time in its jobs."""
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
        """Return the figures as columns of `pool_snapshots`, with the jobs *pending* now, and reset the peak."""
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
