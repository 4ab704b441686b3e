"""Leaves jobs that this worker does not understand to workers that do.

Such a job goes back into the queue at once, at its old place, and this worker does not claim it again while it
remembers it: any other worker may have it within a millisecond or two, and the worker does no more work for it. If many
such jobs are in the queue, the worker does claim some again, and puts them back with a delay, which grows.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Release
from tidepool.logs import printable
from tidepool.queue.wire import QueueKeys

log = structlog.get_logger(__name__)

_MAX_SKIPPED = 100
"""Max jobs that a worker does not claim again: each claim carries their ids."""
_MAX_REMEMBERED = 100_000
"""Max jobs whose time of first sight is remembered."""
_FORGET_AFTER_S = 60.0
"""Seconds until a job is forgotten, after its time is over: another worker has run it by then."""
_MIN_DELAY_S, _MAX_DELAY_S = 0.02, 5.0
"""Min and max seconds before a job is due again that cannot be skipped; the delay is the time since its first sight."""
_VISITS_PER_S = 1000
"""Max jobs a second that are claimed only to be put back: if they are many, their max delay is longer."""
_MAX_SHOWN = 200
"""Max characters of a name or an id in a log line."""


class _Sight(NamedTuple):
    """The first sight of a job that was not understood."""

    at_s: float
    """When that was, by the monotonic clock."""
    end: bytes | int | None
    """What `_end_of` returns of the job: another job may have the same id later."""


class LeftJobs:
    """Leaves jobs that this worker does not understand to other workers, each for *leave_s* seconds.

    The time is counted from when this worker first saw the job.
    """

    def __init__(self, leave_s: float) -> None:
        self._leave_s = leave_s
        self._seen: dict[str, _Sight] = {}
        """The first sight of each job here; the oldest first."""
        self._skipped: dict[bytes, float] = {}
        """Ids of the jobs that this worker does not claim, each with when it was first seen; the oldest first."""
        self._logged: set[str] = set()

    def leave(self, job: Job, cause: str) -> Release | None:
        """Return how to put *job* back for another worker; None if its time is over.

        *cause* is why this worker does not understand the job, for the log.
        """
        now_s = time.monotonic()
        sight, is_new = self._seen.get(job.queue_id), False
        if sight is None or sight.end != _end_of(job):
            self._log(job, cause)
            sight = _Sight(now_s, _end_of(job))
            is_new = self._remember(job.queue_id, sight)
        left_s = sight.at_s + self._leave_s - now_s
        if left_s <= 0:
            self._seen.pop(job.queue_id, None)
            return None
        if not is_new and len(self._skipped) >= _MAX_SKIPPED:
            longest_s = max(_MAX_DELAY_S, len(self._seen) / _VISITS_PER_S)
            delay_s = min(max(now_s - sight.at_s, _MIN_DELAY_S), longest_s, left_s)
            return Release(int(delay_s * 1000) + 1)
        self._skip(QueueKeys.encode_id(job.queue_id), sight.at_s)
        return Release()

    def skipped(self) -> list[bytes]:
        """Return the ids of the jobs that this worker does not claim now."""
        over = time.monotonic() - self._leave_s
        for job_id in [job_id for job_id, since in self._skipped.items() if since <= over]:
            del self._skipped[job_id]
        return list(self._skipped)

    def gone(self, job_ids: Iterable[bytes]) -> None:
        """Record that these jobs have left the queue: their ids may be used again."""
        for job_id in job_ids:
            self._skipped.pop(job_id, None)

    def _skip(self, job_id: bytes, since_s: float) -> None:
        if len(self._skipped) >= _MAX_SKIPPED:
            del self._skipped[next(iter(self._skipped))]
        self._skipped[job_id] = since_s

    def _remember(self, job_id: str, sight: "_Sight") -> bool:
        """Remember the first sight of a job; return False if too many are remembered: it counts as new next time."""
        oldest = next(iter(self._seen), None)
        if oldest is not None and sight.at_s - self._seen[oldest].at_s > self._leave_s + _FORGET_AFTER_S:
            del self._seen[oldest]
        self._seen.pop(job_id, None)
        has_room = len(self._seen) < _MAX_REMEMBERED
        if has_room:
            self._seen[job_id] = sight
        return has_room

    def _log(self, job: Job, cause: str) -> None:
        """Log the first job of each function that is left."""
        if job.function not in self._logged and len(self._logged) < _MAX_REMEMBERED:
            self._logged.add(job.function)
            function, job_id = (printable(text, _MAX_SHOWN) for text in (job.function, job.queue_id))
            log.warning("job.left", function=function, job_id=job_id, cause=cause, for_s=self._leave_s)


def _end_of(job: Job) -> bytes | int | None:
    """Return the last bytes of a job's content, which differ from those of other jobs: arq puts the time there."""
    return job.payload[-64:] if isinstance(job.payload, bytes) else job.payload
