"""Limits how many jobs of a function run at a time in this process: `EngineOptions.concurrency`.

A worker learns which function a job is for when it has claimed the job. A job over its function's limit goes back into
the queue at once and is due again later, so that no such job takes the place of another function's, and claims get past
any number of them. Any worker may claim it then. When a job of the function ends here, the worker makes the oldest job
that it has put back due at once, at its old place in the queue, and so loses no time.

The more jobs of a function are put back, the longer is the delay of each: 10 seconds with 1,000 jobs. So up to 6,000 of
them cost the fleet max a hundred claims a second.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Release
from tidepool.queue.leases import Recall

_LEAST_DELAY_MS, _LONGEST_DELAY_MS = 1000, 60_000
"""Min and max milliseconds until a job that was put back is due by itself."""
_DELAY_OF_EACH_MS = 10
"""Milliseconds by which each job of the function that was put back delays the next one."""
_MOST_REMEMBERED = 10_000
"""Max jobs of a function that are remembered to be recalled. Others are only claimed when their delay is over."""


@dataclass(slots=True)
class _Function:
    """A function with a limit, and its jobs here."""

    limit: int
    running: set[Job] = field(default_factory=set[Job])
    put_back: dict[str, Recall] = field(default_factory=dict[str, Recall])
    """The jobs that may be recalled, by id, the oldest first."""

    def recalled(self, most: int) -> list[Recall]:
        """Remove up to *most* of the jobs that were put back, no more than may run now, and return them."""
        free = min(most, self.limit - len(self.running))
        chosen = list(islice(self.put_back.values(), max(0, free)))
        for recall in chosen:
            del self.put_back[recall.job_id]
        return chosen


def check_limits(limits: Mapping[str, int], functions: Collection[str]) -> None:
    """Raise `ValueError` if one of *limits* is less than 1, or if it is for a name that is not one of *functions*."""
    for name, limit in limits.items():
        if name not in functions:
            raise ValueError(f"concurrency: no function is called {name!r}; there are {', '.join(functions)}")
        if limit < 1:
            raise ValueError(f"concurrency: {name!r} has the limit {limit}; it must be 1 or more")


class Concurrency:
    """Counts the running jobs of each function that *limits* names, and refuses those over its number."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._functions = {name: _Function(limit) for name, limit in limits.items()}
        self._leaving: dict[Job, Recall] = {}
        """The jobs whose putting back Redis has not acknowledged yet."""

    def begin(self, job: Job) -> Release | None:
        """Count a decoded *job* as running, and return None; or return how to put it back, if its limit is reached."""
        function = self._functions.get(job.function)
        if function is None:
            return None
        known = function.put_back.get(job.queue_id)
        if known is not None:
            job.due_ms = known.due_ms
        if len(function.running) < function.limit:
            function.put_back.pop(job.queue_id, None)
            function.running.add(job)
            return None
        delay_ms = min(max(_LEAST_DELAY_MS, _DELAY_OF_EACH_MS * len(function.put_back)), _LONGEST_DELAY_MS)
        self._leaving[job] = Recall(job.queue_id, job.due_ms, delay_ms, job.attempt)
        return Release(delay_ms, may_be_recalled=True)

    def end(self, job: Job) -> None:
        """Count *job* as running no longer, if it was."""
        if (function := self._functions.get(job.function)) is not None:
            function.running.discard(job)

    def acknowledged(self, jobs: Iterable[Job]) -> None:
        """Remember those of *jobs* that were put back for their limit: they are in the queue again."""
        for job in jobs:
            recall = self._leaving.pop(job, None)
            if recall is not None:
                put_back = self._functions[job.function].put_back
                if len(put_back) < _MOST_REMEMBERED or job.queue_id in put_back:
                    put_back[job.queue_id] = recall  # one that was there keeps its place

    def recalled(self, room: int) -> list[Recall]:
        """Return up to *room* jobs that were put back and whose functions may run now; no job is returned twice."""
        chosen: list[Recall] = []
        for function in self._functions.values():
            chosen += function.recalled(room - len(chosen))
        return chosen
