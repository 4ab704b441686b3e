"""The ledger: effects and outcomes commit together, once, however often and by whichever worker a job is delivered."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from factories import a_job, a_product, a_stock, a_user, an_order
from waiting import until

from tidepool.jobs.job import IDENTITY_MS
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, LookAgain, Rejected, RetryLater
from tidepool.ledger.batcher import Tally
from tidepool.ledger.ledger import UNRESOLVED_DELAYS_S, Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from worker.jobs import JOBS
from worker.reasons import ShopReason


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    """Give a ledger over the test's pool."""
    return Ledger(pool, JOBS, worker_id="worker-1")


async def rows(connection: Any) -> dict[str, Any]:
    """Return the ledger's rows by job id."""
    return {row["job_id"]: row for row in await connection.fetch("SELECT * FROM job_results")}


async def count(connection: Any, table: str) -> int:
    """Return how many rows *table* has."""
    return await connection.fetchval(f"SELECT count(*) FROM {table}")


async def test_a_batch_is_applied_and_answered_in_order(ledger: Ledger, connection: Any) -> None:
    """One outcome a job."""
    batch = [a_job(a_user("zoe")), a_job(a_user("ada")), a_job(a_user("zoe", email="z@x"))]
    zoe, ada, twin = await ledger.settle("create_user", batch)
    found = {row["username"]: row["id"] for row in await connection.fetch("SELECT id, username FROM users")}
    assert [Applied({"user_id": found["zoe"]}), Applied({"user_id": found["ada"]})] == [zoe, ada]
    assert Rejected(ShopReason.USERNAME_TAKEN) == twin
    assert Tally(applied=2, rejected=1, failed=0) == ledger.tally


async def test_an_applied_jobs_row_has_every_column(ledger: Ledger, connection: Any) -> None:
    """What there is to say about a job stands in its row."""
    before = datetime.now(UTC)
    job = a_job(a_user(), "a", attempt=3)
    (outcome,) = await ledger.settle("create_user", [job])
    row = dict((await rows(connection))["a"])
    assert isinstance(outcome, Applied)
    assert job.enqueued_ms == round(row.pop("enqueued_at").timestamp() * 1000)
    assert job.started_ms == round(row.pop("started_at").timestamp() * 1000)
    assert before <= row.pop("finished_at") <= datetime.now(UTC)
    assert job.queue_us == row.pop("queue_us")
    assert 0 <= row.pop("pool_wait_us") < 10_000_000
    assert 0 < row.pop("db_us") < 10_000_000
    assert (0, 0) == (row.pop("batch_us"), row.pop("write_us"))  # no batcher had it, and it is the first batch
    assert {
        "job_id": "a",
        "key_ms": IDENTITY_MS,
        "function": "create_user",
        "status": "applied",
        "atomic": True,
        "result": f'{{"user_id": {outcome.result["user_id"]}}}',
        "reason": None,
        "error": None,
        "attempts": 3,
        "worker_id": "worker-1",
        "args": None,
        "requeued_at": None,
    } == row


async def test_a_rejected_jobs_row_has_reason_error_and_args(ledger: Ledger, connection: Any) -> None:
    """Its content is kept, so that it can be enqueued again."""
    invalid = Rejected(CommonReason.INVALID, "email: Field required")
    assert [invalid] == await ledger.settle("create_user", [a_job(invalid, "a", content={"username": "ada"})])
    row = (await rows(connection))["a"]
    assert ("rejected", "invalid", "email: Field required", '{"username": "ada"}', None) == tuple(
        row[name] for name in ("status", "reason", "error", "args", "result")
    )


async def test_a_failed_jobs_row_has_error_and_args(ledger: Ledger, connection: Any) -> None:
    """What was given up before it came here, such as after too many tries."""
    failed = Failed("gave up")
    assert [failed] == await ledger.settle("create_user", [a_job(failed, "a", content={"username": "ada"})])
    row = (await rows(connection))["a"]
    assert ("failed", None, "gave up", '{"username": "ada"}') == tuple(
        row[name] for name in ("status", "reason", "error", "args")
    )
    assert 1 == ledger.tally.failed


@pytest.mark.parametrize("content", [None, [1], "text", {"name": "a\x00b"}])
async def test_content_that_cannot_be_enqueued_again_is_not_kept(ledger: Ledger, connection: Any, content: Any) -> None:
    """No object, or one that jsonb cannot hold; the row is written all the same."""
    await ledger.settle("create_user", [a_job(Rejected(CommonReason.INVALID), "a", content=content)])
    assert (await rows(connection))["a"]["args"] is None


async def test_content_is_kept_to_the_letter(ledger: Ledger, connection: Any) -> None:
    """Emoji, quotes, backslashes."""
    content = {"username": "😀 \"quoted\" \\ 'x'; DROP TABLE users; --", "n": 2**70}
    await ledger.settle("create_user", [a_job(Rejected(CommonReason.INVALID), "a", content=content)])
    kept = await connection.fetchval("SELECT args->>'username' FROM job_results")
    assert content["username"] == kept


async def test_content_with_a_backslash_before_u0000_is_kept(ledger: Ledger, connection: Any) -> None:
    """It has no NUL, so jsonb can hold it."""
    content = {"username": r"C:\u0000"}
    await ledger.settle("create_user", [a_job(Rejected(CommonReason.INVALID), "a", content=content)])
    assert (await rows(connection))["a"]["args"] is not None


@pytest.mark.parametrize("poison", [float("inf"), float("-inf"), float("nan"), "\ud800"])
async def test_content_that_jsonb_refuses_harms_nothing(ledger: Ledger, connection: Any, poison: Any) -> None:
    """`1e999` decodes to infinity: the poisoned job is rejected, the other one of its batch applied."""
    poisoned = a_job(Rejected(CommonReason.INVALID), "a", content={"quantity": poison})
    outcomes = await ledger.settle("create_user", [poisoned, a_job(a_user(), "b")])
    assert [Rejected, Applied] == [type(outcome) for outcome in outcomes]
    assert {"a", "b"} == set(await rows(connection))


async def test_a_redelivered_job_gets_its_stored_outcome(ledger: Ledger, connection: Any) -> None:
    """Applied, rejected or failed: nothing runs a second time, and nothing is counted twice."""
    batch = [
        a_job(a_user("ada"), "applied"),
        a_job(a_user("ada"), "rejected"),
        a_job(Failed("gave up"), "failed"),
    ]
    first = await ledger.settle("create_user", batch)
    written = await rows(connection)
    assert first == await ledger.settle("create_user", batch)
    assert written == await rows(connection)
    assert 1 == await count(connection, "users")
    assert Tally(applied=1, rejected=1, failed=1) == ledger.tally


async def test_new_and_redelivered_jobs_share_a_batch(ledger: Ledger, connection: Any) -> None:
    """Each in its place."""
    old = a_job(a_user("old"), "old")
    (stored,) = await ledger.settle("create_user", [old])
    new_1, again, new_2 = await ledger.settle("create_user", [a_job(a_user("new-1")), old, a_job(a_user("new-2"))])
    assert stored == again
    assert [Applied, Applied] == [type(new_1), type(new_2)]
    assert 3 == await count(connection, "users")


async def test_new_and_redelivered_orders_share_a_batch(ledger: Ledger, pool: Pool, connection: Any) -> None:
    """The old order runs into its own row's guard before the ledger is looked up: the batch is not split for that."""
    await ledger.settle("create_user", [a_job(a_user("ada"))])
    await ledger.settle("create_product", [a_job(a_product("LAMP"))])
    old = a_job(an_order(), "old")
    (stored,) = await ledger.settle("place_order", [old])
    before = pool.stats.acquire_ok
    new_1, again, new_2 = await ledger.settle("place_order", [a_job(an_order()), old, a_job(an_order())])
    assert 2 == pool.stats.acquire_ok - before
    assert stored == again
    assert [Applied, Applied] == [type(new_1), type(new_2)]
    assert 3 == await count(connection, "orders")
    assert Tally(applied=5, rejected=0, failed=0) == ledger.tally


async def test_two_workers_with_the_same_jobs_apply_them_once(pool: Pool, connection: Any) -> None:
    """Both hold the same leases, as after a pause; both answer the same, whichever was faster."""
    ledgers = [Ledger(pool, JOBS, worker_id=f"worker-{n}") for n in range(2)]
    await ledgers[0].settle("create_user", [a_job(a_user("ada"))])
    await ledgers[0].settle("create_product", [a_job(a_product("LAMP"))])
    for _round in range(5):
        users = [a_job(a_user(f"u-{_round}-{n}"), f"u-{_round}-{n}") for n in range(20)]
        orders = [a_job(an_order(quantity=1 + n), f"o-{_round}-{n}") for n in range(20)]
        one, other, *placed = await asyncio.gather(
            ledgers[0].settle("create_user", users),
            ledgers[1].settle("create_user", users[::-1]),
            ledgers[0].settle("place_order", orders),
            ledgers[1].settle("place_order", orders),
        )
        assert one == other[::-1]
        assert placed[0] == placed[1]
    assert 1 + 100 == await count(connection, "users")
    assert 100 == await count(connection, "orders")
    assert 2 + 200 == await count(connection, "job_results")
    assert 2 + 200 == sum(ledger.tally.applied for ledger in ledgers)


async def test_a_product_that_goes_out_of_stock_stops_orders(ledger: Ledger) -> None:
    """Batches of different functions see each other's commits."""
    await ledger.settle("create_user", [a_job(a_user())])
    await ledger.settle("create_product", [a_job(a_product())])
    assert [Applied] == [type(o) for o in await ledger.settle("place_order", [a_job(an_order())])]
    await ledger.settle("set_stock", [a_job(a_stock(in_stock=False))])
    assert [Rejected(ShopReason.OUT_OF_STOCK)] == await ledger.settle("place_order", [a_job(an_order())])


@pytest.mark.parametrize(
    ("attempt", "delay_s"), [(n + 1, UNRESOLVED_DELAYS_S[min(n, len(UNRESOLVED_DELAYS_S) - 1)]) for n in range(6)]
)
async def test_an_unknown_reference_is_tried_again_later(
    ledger: Ledger, connection: Any, attempt: int, delay_s: float
) -> None:
    """With growing delays, and no row: that would be an outcome."""
    outcomes = await ledger.settle("place_order", [a_job(an_order(), attempt=attempt)])
    assert [RetryLater(delay_s)] == outcomes
    assert {} == await rows(connection)
    assert Tally(retried=1) == ledger.tally


async def test_an_unknown_reference_is_looked_up_again_at_once(ledger: Ledger, connection: Any) -> None:
    """What it waits for may be in a batch that commits at this moment; that holds for the last try, too."""
    batch = [a_job(an_order(), attempt=n, is_last_attempt=n == 5, has_looked_again=False) for n in (1, 5)]
    assert [LookAgain(), LookAgain()] == await ledger.settle("place_order", batch)
    assert {} == await rows(connection)


async def test_an_unknown_reference_is_rejected_on_the_last_try(ledger: Ledger, connection: Any) -> None:
    """With the reason, and with its content kept for a requeue."""
    batch = [a_job(an_order(), "a", attempt=5, is_last_attempt=True)]
    assert [Rejected(ShopReason.UNKNOWN_USER)] == await ledger.settle("place_order", batch)
    assert '{"sku": "LAMP", "quantity": 1, "username": "ada"}' == (await rows(connection))["a"]["args"]


async def test_an_order_that_overtook_its_user_is_applied_when_it_comes_back(ledger: Ledger) -> None:
    """The delays are longer than a dead worker's lease."""
    order = a_job(an_order(), "order")
    await ledger.settle("create_product", [a_job(a_product())])
    assert [RetryLater(UNRESOLVED_DELAYS_S[0])] == await ledger.settle("place_order", [order])
    await ledger.settle("create_user", [a_job(a_user())])
    assert [Applied] == [type(outcome) for outcome in await ledger.settle("place_order", [order])]


async def test_a_requeued_jobs_row_is_overwritten(ledger: Ledger, connection: Any) -> None:
    """The new outcome takes the place of the old one, and the mark is gone."""
    job = a_job(an_order(), "a", is_last_attempt=True)
    await ledger.settle("place_order", [job])
    await ledger.settle("create_user", [a_job(a_user())])
    await ledger.settle("create_product", [a_job(a_product())])
    assert [Rejected(ShopReason.UNKNOWN_USER)] == await ledger.settle("place_order", [job])
    await connection.execute("UPDATE job_results SET requeued_at = now() WHERE job_id = 'a'")
    (outcome,) = await ledger.settle("place_order", [a_job(an_order(), "a", attempt=1)])
    assert isinstance(outcome, Applied)
    row = (await rows(connection))["a"]
    assert ("applied", None, None, None, None) == tuple(
        row[name] for name in ("status", "reason", "error", "args", "requeued_at")
    )


async def test_a_batch_of_an_unknown_function_can_be_settled(ledger: Ledger, connection: Any) -> None:
    """What is rejected from the start needs no handler."""
    rejected = Rejected(CommonReason.INVALID, "there is no such function")
    outcomes = await ledger.settle("drop_table", [a_job(rejected, "a", function="drop_table")])
    assert [rejected] == outcomes
    assert "drop_table" == (await rows(connection))["a"]["function"]


async def test_work_waits_for_a_connection_and_says_so_in_its_row(database: PoolConfig, connection: Any) -> None:
    """pool_wait_us is the time from being taken to the batch's connection."""
    pool = await Pool.open(replace(database, max_size=1))
    ledger = Ledger(pool, JOBS, worker_id="w")
    job = a_job(a_user(), "a")

    async def waiting() -> bool:
        return pool.stats.waiting > 0

    async with pool.acquire():
        settling = asyncio.create_task(ledger.settle("create_user", [job]))
        await until(waiting)
        await connection.execute("SELECT pg_sleep(0.05)")
    await settling
    await pool.close()
    assert (await rows(connection))["a"]["pool_wait_us"] >= 50_000


async def test_a_row_has_the_commit_of_the_batch_before(ledger: Ledger, connection: Any) -> None:
    """Its own comes after it; the slow part of a database is in the database's part all the same."""
    await connection.execute("""
        CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION nap()""")
    for job_id in ("a", "b"):
        await ledger.settle("create_user", [a_job(a_user(job_id), job_id)])
    found = await rows(connection)
    assert 0 == found["a"]["write_us"]
    assert 50_000 <= found["b"]["write_us"] < found["b"]["db_us"]
    assert 50_000 > found["a"]["db_us"]


async def test_retries_are_counted_by_function(ledger: Ledger) -> None:
    """Those that go back to the queue; a function that no job type has is one of the others."""
    await ledger.settle("place_order", [a_job(an_order(), "a", function="place_order")])
    await ledger.settle("invented", [a_job(Rejected(CommonReason.INVALID), "b", function="invented")])
    assert {"place_order": [0, 0, 0, 1], "(others)": [0, 1, 0, 0]} == ledger.tally.functions
