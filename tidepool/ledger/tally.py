"""Counts the outcomes and batches of one process since it started, for its snapshots.

The counters only grow, so the figures of a period are the difference of two readings. Durations are microseconds.
"""

import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Failed, Outcome, Rejected
from tidepool.pool.figures import BOUNDS_US, empty_histogram

_OTHERS = "(others)"
"""The name under which all functions are counted that are no job type of this process: clients can invent many."""


@dataclass(slots=True)
class Tally:
    """Counts the outcomes that this process has committed, and the attempts after which a job is run again."""

    applied: int = 0
    rejected: int = 0
    failed: int = 0
    retried: int = 0
    functions: dict[str, list[int]] = field(default_factory=dict[str, list[int]], compare=False)
    """The four counts above by function: applied, rejected, failed, retried."""
    known: Collection[str] = field(default=(), compare=False)
    """The functions that are counted under their own names; others are counted together."""

    def name_of(self, function: str) -> str:
        """Return the name under which *function* is counted: its own if it is known, or else `(others)`."""
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
        """Return the counts as columns of the table `pool_snapshots`."""
        return {
            "jobs_applied": self.applied,
            "jobs_rejected": self.rejected,
            "jobs_failed": self.failed,
            "jobs_retried": self.retried,
            "functions": {name: list(counts) for name, counts in self.functions.items()},
        }


@dataclass(slots=True)
class BatchFigures:
    """Counts the batches that started, and how long their jobs had waited in the batcher for that."""

    batches: int = 0
    batch_jobs: int = 0
    batch_wait_us_sum: int = 0
    batch_wait_us_max: int = 0
    batch_wait_hist: list[int] = field(default_factory=empty_histogram)

    def left(self, batch: Sequence[Job]) -> None:
        """Count a batch that starts now, and set `left_ns` of its jobs to the present time."""
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
        """Return the figures as columns of the table `pool_snapshots`, and reset the peak `batch_wait_us_max`.

        *pending* is the number of jobs that wait in the batcher now; it becomes the column `batch_pending`.
        """
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
