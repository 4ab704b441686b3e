"""Triggers and constraints that others have put on our tables: whose failure it is, and that no outcome is untrue."""

import asyncio
from typing import Any

import pytest
from factories import a_change, a_job, a_product, a_stock, a_user, an_order

from tidepool.jobs.outcomes import Applied, Failed, Rejected, RetryLater
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from worker.jobs import JOBS

_TRIGGER = """
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;
CREATE TRIGGER meddling BEFORE {} FOR EACH ROW EXECUTE FUNCTION meddle()"""
OF_ONE_STATEMENT = ["08001", "08006", "08P01", "28000", "3D000", "53400", "57P01", "58P01", "58030", "2200H"]
"""What a trigger meets that calls a foreign server, a library or a sequence that is at its end."""


def raising(state: str, place: str) -> str:
    """Return a trigger that raises *state* for rows of create_user, or of users."""
    only = "IF new.function <> 'create_user' THEN RETURN new; END IF;" if "job_results" in place else ""
    return _TRIGGER.format(f"{only} RAISE EXCEPTION 'no such thing' USING ERRCODE = '{state}';", place)


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    """Give a ledger."""
    return Ledger(pool, JOBS, worker_id="w")


async def settled(ledger: Ledger, function: str, command: Any, *, is_last_attempt: bool = False) -> Any:
    """Settle one job."""
    (outcome,) = await ledger.settle(function, [a_job(command, is_last_attempt=is_last_attempt)])
    return outcome


@pytest.mark.parametrize("state", OF_ONE_STATEMENT)
@pytest.mark.parametrize("deferred", [False, True], ids=["statement", "commit"])
async def test_what_a_trigger_cannot_reach_is_its_job_types_failure(
    ledger: Ledger,
    connection: Any,
    state: str,
    deferred: bool,  # noqa: FBT001
) -> None:
    """The server is there, and serves the others: a fleet must not wait because one table's trigger cannot."""
    trigger = raising(state, "INSERT ON users")
    if deferred:
        trigger = trigger.replace("CREATE TRIGGER", "CREATE CONSTRAINT TRIGGER").replace("BEFORE", "AFTER")
        trigger = trigger.replace("FOR EACH", "DEFERRABLE INITIALLY DEFERRED FOR EACH")
    await connection.execute(trigger)
    async with asyncio.timeout(10):
        again = await settled(ledger, "create_user", a_user("ada"))
        failed = await settled(ledger, "create_user", a_user("eve"), is_last_attempt=True)
        other = await settled(ledger, "create_product", a_product())
    assert (RetryLater, Failed, Applied) == (type(again), type(failed), type(other))
    assert not ledger.database_is_away


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (
            "ALTER TABLE job_results DROP CONSTRAINT job_results_pkey",
            "ALTER TABLE job_results ADD CONSTRAINT job_results_pkey PRIMARY KEY (job_id, key_ms)",
        ),
        (raising("42804", "INSERT ON job_results"), "DROP TRIGGER meddling ON job_results"),
        (raising("57014", "INSERT ON job_results"), "DROP TRIGGER meddling ON job_results"),
    ],
    ids=["no key", "type", "locked"],
)
async def test_the_ledgers_own_statement_is_no_jobs_fault(
    ledger: Ledger, connection: Any, broken: str, mended: str
) -> None:
    """A lost key, a changed type, a lock that somebody holds for minutes: a last try is not spent on it."""
    await connection.execute(broken)
    async with asyncio.timeout(10):
        settling = asyncio.create_task(settled(ledger, "create_user", a_user("ada"), is_last_attempt=True))
        while not ledger.database_is_away and not settling.done():
            await asyncio.sleep(0.01)
        await connection.execute(mended)
        assert isinstance(await settling, Applied)


async def test_a_constraint_on_the_ledger_rejects_no_job(ledger: Ledger, connection: Any) -> None:
    """Somebody's own rule on rows of applied jobs says nothing of what the job holds."""
    await connection.execute("ALTER TABLE job_results ADD CHECK (status <> 'applied')")
    assert isinstance(await settled(ledger, "create_user", a_user("ada")), RetryLater)
    assert isinstance(await settled(ledger, "create_user", a_user("ada"), is_last_attempt=True), Failed)
    assert 0 == await connection.fetchval("SELECT count(*) FROM users")


DROPPED = {
    "INSERT ON users": ("create_user", a_user("eve")),
    "INSERT ON products": ("create_product", a_product("milk")),
    "INSERT ON orders": ("place_order", an_order()),
    "UPDATE ON users": ("update_user", a_change(full_name="Ada L.")),
    "UPDATE ON products": ("set_stock", a_stock(in_stock=False)),
}


@pytest.mark.parametrize("place", DROPPED)
async def test_an_effect_that_a_trigger_drops_is_not_reported_as_made(
    ledger: Ledger, connection: Any, place: str
) -> None:
    """Orders were applied with no id, users rejected for an email that nobody had."""
    for function, command in (("create_user", a_user()), ("create_product", a_product())):
        assert isinstance(await settled(ledger, function, command), Applied)
    await connection.execute(_TRIGGER.format("RETURN NULL;", place))
    again = await settled(ledger, *DROPPED[place])
    failed = await settled(ledger, *DROPPED[place], is_last_attempt=True)
    assert isinstance(again, RetryLater)
    assert isinstance(failed, Failed)
    assert "trigger" in failed.error


async def test_a_product_without_a_key_is_not_dropped_silently_either(ledger: Ledger, connection: Any) -> None:
    """There is no sku that could be taken."""
    await connection.execute(_TRIGGER.format("RETURN NULL;", "INSERT ON products"))
    assert isinstance(await settled(ledger, "create_product", a_product(None)), RetryLater)


async def test_taken_keys_are_still_rejected(ledger: Ledger) -> None:
    """Each for its own reason, in one batch."""
    await settled(ledger, "create_user", a_user("ada"))
    await settled(ledger, "create_product", a_product("tea"))
    twins = [a_user("ada", email="b@x"), a_user("bob", email="ada@example.org"), a_user("eve")]
    username, email, fresh = await ledger.settle("create_user", [a_job(twin) for twin in twins])
    sku = await settled(ledger, "create_product", a_product("tea"))
    assert ["username_taken", "email_taken", "sku_taken"] == [
        taken.reason for taken in (username, email, sku) if isinstance(taken, Rejected)
    ]
    assert isinstance(fresh, Applied)
