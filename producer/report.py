"""Counts the jobs of a producer run and their outcomes, and reports them as text or as one JSON object."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tidepool import Finished
from tidepool.cli import console, figures_table

_STATUSES = ("applied", "rejected", "failed")
"""The outcomes that a job can have."""
_STEPS_PER_E = 100
"""Histogram buckets for each factor of e (2.718…), which makes percentiles accurate to one per cent."""


class _Percentiles:
    """A histogram of durations, which gives percentiles that are accurate to one per cent.

    Its memory does not grow with the number of durations.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._max_us = 0

    def add(self, duration_us: int) -> None:
        """Add one duration, in microseconds, to the histogram."""
        self._buckets[round(math.log(duration_us + 1) * _STEPS_PER_E)] += 1
        self._max_us = max(self._max_us, duration_us)

    def as_ms(self) -> dict[str, float]:
        """Return `p50`, `p95`, `p99` and `max` in milliseconds; all are 0 if nothing was added."""
        percentiles = {f"p{q}": round(min(self._quantile_us(q / 100), self._max_us) / 1000, 3) for q in (50, 95, 99)}
        return {**percentiles, "max": round(self._max_us / 1000, 3)}

    def _quantile_us(self, q: float) -> float:
        rank = q * self._buckets.total()
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return math.exp(bucket / _STEPS_PER_E) - 1
        return 0.0


@dataclass
class RunReport:
    """Counts the jobs of one run of the producer, by their outcomes.

    `enqueued` + `duplicates` + `refused` is the number of commands read. `outcomes` counts jobs by function and status,
    `rejections` by reason. `followed` is whether the run waits for outcomes.
    """

    enqueued: int = 0
    duplicates: int = 0
    refused: int = 0
    enqueue_seconds: float = 0.0
    run_seconds: float = 0.0
    seed: int | None = None
    followed: bool = False
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    rejections: Counter[str] = field(default_factory=Counter[str])
    queue_wait: _Percentiles = field(default_factory=_Percentiles)

    def count(self, finished: Iterable[Finished]) -> None:
        """Add jobs that have their outcome to the counts."""
        for job in finished:
            self.outcomes[job.function, job.status] += 1
            self.queue_wait.add(job.queue_us)
            if job.reason is not None:
                self.rejections[job.reason] += 1

    def total(self, status: str) -> int:
        """Return the number of jobs that ended with *status*: applied, rejected or failed."""
        return sum(count for (_, s), count in self.outcomes.items() if s == status)

    @property
    def given(self) -> int:
        """The number of commands that were read: enqueued, duplicates or refused."""
        return self.enqueued + self.duplicates + self.refused

    @property
    def finished(self) -> int:
        """The number of jobs that have an outcome."""
        return self.outcomes.total()

    @property
    def pending(self) -> int:
        """The number of enqueued jobs that have no outcome yet."""
        return self.enqueued - self.finished

    @property
    def exit_status(self) -> int:
        """The exit status of the run: 1 if a job failed or a command was refused, else 0."""
        return 1 if self.refused or self.total("failed") else 0

    @property
    def jobs_per_second(self) -> float:
        """The number of jobs that got their outcome, divided by the seconds that the run took."""
        return round(self.finished / self.run_seconds, 1) if self.run_seconds else 0.0

    @property
    def functions(self) -> list[str]:
        """The names of the functions of jobs that have an outcome, in alphabetical order."""
        return sorted({function for function, _ in self.outcomes})

    def as_json(self) -> dict[str, object]:
        """Return the report as a dictionary for one JSON object."""
        return {
            "enqueued": self.enqueued,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "enqueue_seconds": round(self.enqueue_seconds, 3),
            **({} if self.seed is None else {"seed": self.seed}),
            **{status: self.total(status) for status in _STATUSES},
            "pending": self.pending,
            "by_function": {f: {status: self.outcomes[f, status] for status in _STATUSES} for f in self.functions},
            "rejections": dict(sorted(self.rejections.items())),
            "run_seconds": round(self.run_seconds, 3),
            "jobs_per_second": self.jobs_per_second,
            "queue_wait_ms": self.queue_wait.as_ms(),
        }

    def print(self) -> None:
        """Print the report as text and tables."""
        rate = self.enqueued / self.enqueue_seconds if self.enqueue_seconds else 0.0
        print(f"enqueued   {self.enqueued:,} in {self.enqueue_seconds:.1f} s ({rate:,.0f}/s)")
        for title, count in (("duplicates", self.duplicates), ("refused", self.refused)):
            if count:
                print(f"{title:<10} {count:,}")
        if self.seed is not None:
            print(f"seed       {self.seed}")
        if self.followed:
            self._print_outcomes()

    def _print_outcomes(self) -> None:
        print(f"finished   {self.finished:,} in {self.run_seconds:.1f} s ({self.jobs_per_second:,.0f} jobs/s)")
        table = figures_table(("function", *_STATUSES), words=("function",))
        for function in self.functions:
            table.add_row(function, *(f"{self.outcomes[function, status]:,}" for status in _STATUSES))
        table.add_row("in all", *(f"{self.total(status):,}" for status in _STATUSES))
        print()
        console().print(table)
        if self.rejections:
            shown = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.rejections.items()))
            print(f"\nrejected for {shown}")
        wait = self.queue_wait.as_ms()
        print(f"\nwait in the queue: p50 {wait['p50']:,.0f} ms, p95 {wait['p95']:,.0f} ms, p99 {wait['p99']:,.0f} ms")
