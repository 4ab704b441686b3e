"""Jobs that only a newer worker understands: how long this worker leaves them, and what it remembers of them."""

import pytest
from factories import user_fields

from tidepool.engine import leaving
from tidepool.engine.intake import Intake
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Outcome, Rejected, Release
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
def newer() -> Intake:
    """Give an intake that leaves jobs to newer workers for ten seconds."""
    intake = Intake(JOBS, max_tries=1, leave_s=10)
    intake.open(Settling())
    return intake


async def is_left(newer: Intake, job_id: str, *, may_leave: bool = True) -> bool:
    """Return whether a job with a field of a newer version is left to others, instead of being rejected."""
    fields = user_fields(shoe_size=42)
    job: Job = Job(job_id, function="create_user", kwargs=fields, content=fields)
    settled = await newer.run(job, may_leave=may_leave)
    assert isinstance(settled, (Release, Rejected))
    return isinstance(settled, Release)


async def test_jobs_that_others_settled_do_not_take_the_place_of_new_ones(
    newer: Intake, monkeypatch: pytest.MonkeyPatch
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
    newer: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog may keep it for longer than it is to be left: then its time is over."""
    clock = Clock(monkeypatch)
    assert await is_left(newer, "late")
    clock.now_s += 50
    assert await is_left(newer, "other")
    assert not await is_left(newer, "late")


async def test_a_burst_leaves_nothing(newer: Intake) -> None:
    """It would end without the jobs."""
    assert not await is_left(newer, "a", may_leave=False)
    assert await is_left(newer, "a")
