"""The kinds of jobs, and the verdicts of their handlers on repositories of dictionaries."""

import inspect
from decimal import Decimal

import pytest
from factories import a_change, a_job, a_product, a_stock, a_user, an_order
from fakes import FakeRepositories

from tidepool.jobs.job import JobType, JobTypes
from tidepool.jobs.outcomes import Applied, Failed, Reason, Rejected, RetryLater, Unresolved
from tidepool.ledger.intake import as_result
from worker.jobs import JOBS
from worker.jobs.create_product import create_product
from worker.jobs.create_user import create_user
from worker.jobs.place_order import place_order
from worker.jobs.set_stock import set_stock
from worker.jobs.update_user import update_user


@pytest.mark.parametrize("job_type", list(JOBS), ids=lambda job_type: job_type.name)
def test_a_kind_of_job_is_one_file_of_its_name(job_type: JobType) -> None:
    """Command and handler live in `worker/jobs/{name}.py` and are documented there."""
    module = f"worker.jobs.{job_type.name}"
    assert (module, module) == (job_type.command.__module__, job_type.handler.__module__)
    assert job_type.handler.__doc__
    assert job_type.command.__doc__
    assert job_type.name == job_type.handler.__name__
    assert inspect.iscoroutinefunction(job_type.handler)


def test_a_second_kind_of_the_same_name_fails_at_start() -> None:
    """Else one of the two would silently never run."""
    kind = next(iter(JOBS))
    with pytest.raises(ValueError, match="two kinds of jobs are called 'create_user'"):
        JobTypes([kind, kind])


def test_an_unknown_kind_is_none() -> None:
    """The caller decides what to tell about it."""
    assert JOBS.get("drop_table") is None


async def test_users_are_created_or_clash() -> None:
    """The first of two twins is applied; the other one is told what it shares."""
    jobs = [a_job(a_user("ada")), a_job(a_user("ada", email="b@x")), a_job(a_user("eve", email="ada@example.org"))]
    assert [
        Applied({"user_id": 1}),
        Rejected(Reason.USERNAME_TAKEN),
        Rejected(Reason.EMAIL_TAKEN),
    ] == await create_user(jobs, FakeRepositories())


async def test_products_are_created_or_clash() -> None:
    """Without a sku there is nothing to clash with."""
    jobs = [a_job(a_product("A")), a_job(a_product("A")), a_job(a_product(None)), a_job(a_product(None))]
    first, clash, *others = await create_product(jobs, FakeRepositories())
    assert Applied({"product_id": 1}) == first
    assert Rejected(Reason.SKU_TAKEN) == clash
    assert all(isinstance(other, Applied) for other in others)


async def test_an_order_is_placed_with_its_total() -> None:
    """Price times quantity, as exact text."""
    repositories = FakeRepositories()
    await repositories.users.create([a_user()])
    await repositories.products.create([a_product(price="12.50")])
    placed = await place_order([a_job(an_order(quantity=3))], repositories)
    assert [Applied({"order_id": 1, "total_price": "37.50"})] == placed


async def test_an_order_that_came_too_early_is_unresolved() -> None:
    """Its user or product may still be on the way."""
    repositories = FakeRepositories()
    await repositories.users.create([a_user("ada")])
    verdicts = await place_order([a_job(an_order("eve")), a_job(an_order("ada", "GONE"))], repositories)
    assert [Unresolved(Reason.UNKNOWN_USER), Unresolved(Reason.UNKNOWN_PRODUCT)] == verdicts


async def test_an_order_against_the_rules_is_rejected() -> None:
    """Trying again cannot help."""
    repositories = FakeRepositories()
    await repositories.users.create([a_user("ada"), a_user("idle", is_active=False)])
    await repositories.products.create([a_product("LAMP"), a_product("SOLD", in_stock=False)])
    verdicts = await place_order([a_job(an_order("idle")), a_job(an_order("ada", "SOLD"))], repositories)
    assert [Rejected(Reason.INACTIVE_USER), Rejected(Reason.OUT_OF_STOCK)] == verdicts


async def test_a_change_applies_to_a_user_who_is_there() -> None:
    """And is tried again for one who is not."""
    repositories = FakeRepositories()
    await repositories.users.create([a_user("ada")])
    jobs = [a_job(a_change("ada", is_active=False)), a_job(a_change("eve", is_active=False))]
    assert [Applied({"user_id": 1}), Unresolved(Reason.UNKNOWN_USER)] == await update_user(jobs, repositories)
    assert not repositories.users.rows[1].is_active


async def test_stock_is_set_for_a_product_that_is_there() -> None:
    """And is tried again for one that is not."""
    repositories = FakeRepositories()
    await repositories.products.create([a_product("LAMP")])
    jobs = [a_job(a_stock("LAMP", in_stock=False)), a_job(a_stock("GONE", in_stock=True))]
    assert [Applied({"product_id": 1}), Unresolved(Reason.UNKNOWN_PRODUCT)] == await set_stock(jobs, repositories)
    assert not repositories.products.rows[1].in_stock


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason: Reason) -> None:
    """A rejection without a detail of its own is told in them."""
    assert reason.words == Rejected(reason).detail


def test_the_cause_of_a_retry_does_not_distinguish_it() -> None:
    """It is for people; the delay is what counts."""
    assert RetryLater(1.0, "this") == RetryLater(1.0, "that")


def test_outcomes_become_results_that_json_holds() -> None:
    """What `Job.result()` answers."""
    assert {"status": "applied", "result": {"user_id": 7}} == as_result(Applied({"user_id": 7}))
    assert {
        "status": "rejected",
        "reason": "email_taken",
        "error": "another user has this email",
    } == as_result(Rejected(Reason.EMAIL_TAKEN))


def test_outcomes_do_not_change() -> None:
    """They are handed to several callers."""
    with pytest.raises(AttributeError):
        Failed("x").error = "y"  # type: ignore[misc]
    assert Decimal("1.0") == a_product(price="1.0").price
