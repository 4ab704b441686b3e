"""The kinds of jobs, and the verdicts of their handlers on repositories of dictionaries."""

import inspect
from decimal import Decimal

import pytest
from factories import a_product

from tidepool.jobs.job_type import AnyJobType, JobTypes
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Reason, Rejected, RetryLater
from worker.jobs import JOBS
from worker.reasons import ShopReason


@pytest.mark.parametrize("job_type", list(JOBS), ids=lambda job_type: job_type.name)
def test_a_kind_of_job_is_one_file_of_its_name(job_type: AnyJobType) -> None:
    """Command and function live in `worker/jobs/{name}.py` and are documented there."""
    module = f"worker.jobs.{job_type.name}"
    assert (module, module) == (job_type.command.__module__, job_type.function.__module__)
    assert job_type.function.__doc__
    assert job_type.command.__doc__
    assert job_type.name == job_type.function.__name__
    assert inspect.iscoroutinefunction(job_type.function)


def test_a_second_kind_of_the_same_name_fails_at_start() -> None:
    """Else one of the two would silently never run."""
    kind = next(iter(JOBS))
    with pytest.raises(ValueError, match="two job types are called 'create_product'"):
        JobTypes([kind, kind])


def test_an_unknown_kind_is_none() -> None:
    """The caller decides what to tell about it."""
    assert JOBS.get("drop_table") is None


@pytest.mark.parametrize("reason", [*CommonReason, *ShopReason])
def test_every_reason_has_words(reason: Reason) -> None:
    """They are the detail of a rejection that has none of its own."""
    assert reason.words == Rejected(reason).detail


def test_the_cause_of_a_retry_does_not_distinguish_it() -> None:
    """It is for people; the delay is what counts."""
    assert RetryLater(1.0, "this") == RetryLater(1.0, "that")


def test_outcomes_become_results_that_json_holds() -> None:
    """What `Job.result()` answers."""
    assert {"status": "applied", "result": {"user_id": 7}} == Applied({"user_id": 7}).as_result()
    assert {
        "status": "rejected",
        "reason": "email_taken",
        "error": "another user has this email",
    } == Rejected(ShopReason.EMAIL_TAKEN).as_result()


def test_outcomes_do_not_change() -> None:
    """They are handed to several callers."""
    with pytest.raises(AttributeError):
        Failed("x").error = "y"  # type: ignore[misc]
    assert Decimal("1.0") == a_product(price="1.0").price
