"""Jobs that only a newer worker understands: how long this worker leaves them, and what it remembers of them."""

import pytest
from factories import user_fields

from tidepool.engine import leaving
from tidepool.engine.attempt import Attempts
from tidepool.engine.options import EngineOptions, TypedJobs
from tidepool.engine.worker import Worker
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Outcome, Release
from tidepool.queue.finisher import Done
from tidepool.queue.wire import receive, serialize
from worker.jobs import JOBS


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(leaving.time, "monotonic", lambda: self.now_s)


class Settling:
    """Settles each job as it is decided already."""

    async def submit(self, job: Job) -> Outcome:
        """Return the job's outcome."""
        return job.decided or Applied({})


@pytest.fixture
async def worker() -> Worker:
    """Give a worker that leaves jobs to newer workers for ten seconds."""
    typed = TypedJobs(JOBS, 1, Settling())
    options = EngineOptions(typed=typed, leave_s=10)
    functions = typed.arq_functions()
    return Worker(functions, handle_signals=False, job_serializer=serialize, job_deserializer=receive, tidepool=options)


@pytest.fixture
def newer(worker: Worker) -> Attempts:
    """Give the attempts of that worker."""
    return Attempts(worker)


async def is_left(newer: Attempts, job_id: str) -> bool:
    """Return whether a job with a field of a newer version is left to others, instead of being rejected."""
    fields = user_fields(shoe_size=42)
    envelope = {"f": "create_user", "a": [], "k": fields, "t": None, "et": 1_764_000_000_000}
    ending = await newer.make(Job(job_id, payload=serialize(envelope)))
    assert isinstance(ending, (Release, Done))
    return isinstance(ending, Release)


async def test_jobs_that_others_settled_do_not_take_the_place_of_new_ones(
    newer: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They never come back here. Were they remembered for ever, a new one would be left again and again, for good."""
    monkeypatch.setattr(leaving, "_MAX_REMEMBERED", 3)
    clock = Clock(monkeypatch)
    for name in "abc":
        assert await is_left(newer, name)
    assert await is_left(newer, "d")
    clock.now_s += 100
    for seconds in (0, 5):
        clock.now_s += seconds
        assert await is_left(newer, "d")
    clock.now_s += 6
    assert not await is_left(newer, "d")


async def test_a_job_that_comes_back_late_still_has_its_own_time(
    newer: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog may keep it for longer than it is to be left: then its time is over."""
    clock = Clock(monkeypatch)
    assert await is_left(newer, "late")
    clock.now_s += 50
    assert await is_left(newer, "other")
    assert not await is_left(newer, "late")


async def test_a_burst_leaves_nothing(worker: Worker, newer: Attempts) -> None:
    """It would end without the jobs."""
    worker.burst = True
    assert not await is_left(newer, "a")
    worker.burst = False
    assert await is_left(newer, "a")
