"""The catalogue of poison: what a sender, or anybody who can write to Redis, may put into it, and the outcome.

Each entry is planted twice for one running worker: alone, and in the middle of a hundred good jobs, which are claimed
and batched with it. The poison's outcome is the one that is documented, the good ones' are what they are without it,
and the worker goes on. The ids are those of the fault catalogue (P1 to P19). Covered elsewhere, and not repeated here:

- P8, P9, P11, P12: every field by every wrong value, without servers, in `worker/test_fields.py`; names that differ in
  case or accents only in `contract/test_ports.py`
- P10: an error's text with NUL, in `ledger/test_ledger_content.py`; data that slips through validation, there, too
- P13: an order that overtakes its user, in `ledger/test_ledger.py`
- P17 (orders racing for a number of pieces): there are no numbers of pieces here, a product is in stock or it is not
- P18: the same id twice at enqueueing, in `client/test_client.py`
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from factories import product_fields, user_fields
from planting import (
    ENQUEUED_MS,
    ENVELOPE,
    ORDER,
    QUEUE,
    STOCK,
    Bomb,
    Plant,
    a_pickle,
    a_product,
    a_user,
    a_worker,
    an_order,
    bare,
    drained,
    envelope,
    named,
    of_another_type,
    spliced,
)
from waiting import until

from tidepool.client import JobClient
from tidepool.jobs.submission import Submission
from tidepool.pool.pool import Pool
from tidepool.queue.wire import MAX_PAYLOAD_BYTES, serialize

pytestmark = pytest.mark.usefixtures("shared_database")


@dataclass(frozen=True)
class Poison:
    """One entry: what it is, how it is planted, and its outcome: status, reason, and words of the error."""

    id: str
    what: str
    plant: Plant
    status: str = "rejected"
    reason: str | None = "invalid"
    words: str = ""


def harmless(id_: str, what: str, plant: Plant) -> Poison:
    """Return an entry that only looks like poison, and is applied to the letter."""
    return Poison(id_, what, plant, "applied", None)


CATALOGUE = [
    Poison("P1", "no bytes", bare(b""), words="has no content"),
    Poison("P1", "cut JSON", bare(json.dumps(ENVELOPE).encode()[:-1]), words="the job is not JSON"),
    Poison("P1", "byte order mark", bare(b"\xef\xbb\xbf" + json.dumps(ENVELOPE).encode()), words="is not JSON"),
    Poison("P1", "msgpack", bare(b"\x85\xa1f\xabcreate_user\xa1a\x90"), words="the job is not JSON"),
    Poison("P2", "function is a list", envelope(f=["create_user"]), words="has no valid 'f'"),
    Poison("P2", "no function", envelope(f=...), words="has no valid 'f'"),
    Poison("P2", "time is 1e30", envelope(et=1e30), words="has no valid 'et'"),
    Poison("P2", "try is text", envelope(t="2"), words="has no valid 't'"),
    Poison("P2", "two objects", envelope(a=[{}, {}]), words="takes its fields by name, or one object"),
    Poison("P2", "one argument that is no object", envelope(a=[None]), words="Input should be"),
    harmless("P3", "id not UTF-8", named(b"\xff\xfe")),
    harmless("P3", "id with newline and ANSI", named(b"\x1b[31m\n")),
    harmless("P3", "id of a megabyte", named(b"x" * 2**20)),
    harmless("P3", "id with NUL", named(b"\x00")),
    Poison("P4", "content of another type", of_another_type, words="has no content"),
    Poison("P4", "no content at all", bare(None), words="has no content"),
    Poison("P4", "score -inf", bare(b"", "-inf"), words="has no content"),
    Poison("P4", "score -1e300", bare(b"", -1e300), words="has no content"),
    Poison("P4", "count of tries is text", bare(b"", retry=b"many"), words="has no content"),
    Poison("P4", "count of tries is negative", bare(b"", retry=b"-5"), words="has no content"),
    Poison("P4", "count of tries is endless", bare(b"", retry=b"9" * 5000), words="has no content"),
    Poison("P4", "count of tries is beyond integer", bare(b"", retry=b"2147483648"), words="has no content"),
    Poison("P5", "pickle bomb", a_pickle, words="is not JSON"),
    Poison("P6", "nested 100,000 deep", bare(b"[" * 100_000), words="is not JSON"),
    Poison("P6", "nested 150 deep", spliced("create_user", b'{"x":' + b"[" * 150 + b"]" * 150 + b"}")),
    Poison("P6", "integer of 100,000 digits", spliced("place_order", b'{"quantity":' + b"1" * 100_000 + b"}")),
    Poison("P6", "integer of 4,000 digits", spliced("place_order", b'{"quantity":' + b"1" * 4000 + b"}")),
    Poison("P6", "40,000 fields", envelope(k={f"field_{n}": n for n in range(40_000)}), words="more than 100 fields"),
    Poison("P7", "largest payload", envelope(k={"x": "x" * (MAX_PAYLOAD_BYTES - 99)}), words="x: Extra inputs"),
    Poison("P7", "one byte more", bare(b" " * (MAX_PAYLOAD_BYTES + 1)), words="is larger than 1048576 bytes"),
    Poison("P7", "4 MB", bare(b"[" * 2**22), words="is larger than 1048576 bytes"),
    Poison("P8", "list for text", a_user(full_name=["Ada"]), words="full_name: "),
    Poison("P8", "truth for number", an_order(quantity=True), words="quantity: "),
    Poison("P8", "float for money", a_product(price=0.1 + 0.2), words="price: must be decimal text"),
    Poison("P9", "NUL in text", a_user(full_name="a\x00b"), words="full_name: has a NUL character"),
    Poison("P9", "NUL in a field's name", a_user(**{"a\x00b": 1}), words=r"a\x00b: "),
    Poison("P9", "lone surrogate", a_user(full_name="\ud800"), words="is not JSON"),
    harmless("P9", "right-to-left, zero-width, emoji", a_user("\u202e\u200b😀{}")),
    Poison("P11", "quantity 0", an_order(quantity=0), words="quantity: "),
    Poison("P11", "quantity 2³¹", an_order(quantity=2**31), words="quantity: "),
    Poison("P11", "quantity 10³⁰", an_order(quantity=10**30), words="quantity: "),
    Poison("P11", "id 2⁶³", an_order(username=None, user_id=2**63), words="user_id: "),
    harmless("P11", "quantity 2³¹ - 1", an_order(quantity=2**31 - 1)),
    Poison("P12", "price -0.01", a_product(price="-0.01"), words="price: "),
    Poison("P12", "price with 3 decimals", a_product(price="0.001"), words="price: "),
    Poison("P12", "price 1e20", a_product(price="1e20"), words="price: "),
    harmless("P12", "price -0", a_product(price="-0")),
    Poison("P13", "no such user", an_order(username="nobody"), reason="unknown_user"),
    Poison("P13", "no such product", an_order(sku="GONE"), reason="unknown_product"),
    Poison("P13", "greatest ids", an_order(username=None, user_id=2**63 - 1), reason="unknown_user"),
    Poison("P14", "NaN", spliced("place_order", b'{"quantity":NaN}')),
    Poison("P14", "Infinity", spliced("place_order", b'{"quantity":-Infinity}')),
    Poison("P14", "1e999", spliced("place_order", b'{"quantity":1e999}')),
    Poison("P14", "NaN as text", a_product(price="NaN"), words="price: "),
    harmless("P15", "SQL in a value", a_user("'); DROP TABLE users;--{}")),
    Poison("P15", "SQL in a field's name", a_user(**{"email = 'x'; DROP TABLE users; --": 1}), words="Extra inputs"),
    Poison("P15", "a column that is no field", a_user(id=1), words="id: Extra inputs"),
    Poison("P19", "unknown function", envelope(f="drop_table"), words="names no function that there is"),
    Poison("P19", "function with NUL", envelope(f="\x00"), words="names no function that there is"),
    Poison("P19", "function of a megabyte", envelope(f="x" * 2**19), words="names no function that there is"),
    Poison("P19", "a name of ours", envelope(f="tidepool:unrunnable", a=[1, 2, 3, 4]), words="names no function"),
    Poison("P19", "old version: a field is missing", envelope(k={"username": "eve"}), words="email: Field required"),
    Poison("P19", "future version: one more field", a_user(shoe_size=42), words="shoe_size: Extra inputs"),
    harmless("P19", "future version: more in the envelope", envelope(f="set_stock", k=STOCK, v=2)),
]  # fmt: skip
NEVER_DUE = [
    Poison("P4", "score +inf", bare(b"", "+inf")),
    Poison("P4", "score of the year 9999", bare(b"", 253_402_300_799_999)),
    Poison("P4", "in progress elsewhere", bare(b"", in_progress=b"1")),
]


def good_jobs(count: int = 100) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Return good jobs of every function by id, with their outcomes: a word of the ledger's."""
    kinds: list[Callable[[int], tuple[str, dict[str, Any], str]]] = [
        lambda n: ("create_user", user_fields(f"user-{n}"), "applied"),
        lambda n: ("create_user", user_fields("ada", email=f"{n}@x"), "username_taken"),
        lambda n: ("create_product", product_fields(f"sku-{n}"), "applied"),
        lambda n: ("place_order", {**ORDER, "quantity": n + 1}, "applied"),
        lambda _: ("place_order", {**ORDER, "sku": "SOLD"}, "out_of_stock"),
        lambda n: ("update_user", {"username": "ada", "full_name": f"Ada {n}"}, "applied"),
        lambda _: ("set_stock", STOCK, "applied"),
    ]
    return {f"good-{n}": kinds[n % len(kinds)](n) for n in range(count)}


@pytest.fixture
async def emptied(connection: Any) -> None:
    """Forget what the last test did."""
    await connection.execute("TRUNCATE users, products, orders, job_results")


@pytest.fixture
async def shop(connection: Any, emptied: None) -> None:
    """Create the user ada, the product LAMP, and SOLD, which is out of stock."""
    await connection.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'ada@x', 'Ada')")
    await connection.execute("""
        INSERT INTO products (sku, name, price, category, in_stock)
        VALUES ('LAMP', 'Lamp', 12.50, 'Home', true), ('SOLD', 'Sold', 1, 'Home', false)
    """)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if anybody has read a pickle, which would make this file."""
    monkeypatch.setattr(Bomb, "canary", tmp_path / "canary")
    yield
    assert not Bomb.canary.exists()


async def plant_alone(redis: ArqRedis, poison: Poison) -> bytes:
    """Enqueue nothing but the poison; returns its id."""
    async with redis.pipeline(transaction=True) as pipe:
        planted = poison.plant(pipe, b"alone")
        await pipe.execute()
    return planted


async def plant_among_good_ones(redis: ArqRedis, poison: Poison) -> bytes:
    """Enqueue a hundred good jobs with the poison in their middle, all at once; returns the poison's id."""
    async with redis.pipeline(transaction=True) as pipe:
        for number, (job_id, (function, fields, _)) in enumerate(good_jobs().items()):
            if number == 50:
                planted = poison.plant(pipe, b"among")
            bare(serialize({**ENVELOPE, "f": function, "k": fields}))(pipe, job_id.encode())
        await pipe.execute()
    return planted


async def rows(connection: Any) -> dict[str, Any]:
    """Return the ledger's rows by job id."""
    return {row["job_id"]: row for row in await connection.fetch("SELECT * FROM job_results")}


def outcomes_of(ledger: dict[str, Any]) -> dict[str, str]:
    """Return the good jobs' outcomes, taken out of the ledger's rows."""
    return {job_id: row["reason"] or row["status"] for job_id, row in ledger.items() if job_id in GOOD}


GOOD = {job_id: outcome for job_id, (_, _, outcome) in good_jobs().items()}


@pytest.mark.usefixtures("shop")
async def test_the_good_jobs_come_out_as_they_should(redis: ArqRedis, pool: Pool, connection: Any) -> None:
    """The control: without any poison."""
    async with a_worker(redis, pool) as running:
        await plant_among_good_ones(redis, Poison("", "nothing", lambda _, job_id: job_id))
        await drained(redis, running)
    assert GOOD == outcomes_of(await rows(connection))


@pytest.mark.usefixtures("shop", "canary")
@pytest.mark.parametrize("poison", CATALOGUE, ids=lambda poison: f"{poison.id} {poison.what}")
async def test_poison_has_its_outcome_and_harms_nobody(
    poison: Poison, redis: ArqRedis, pool: Pool, connection: Any, logs: list[Any]
) -> None:
    """Alone, then among a hundred; nothing of it is left in Redis but its result, which a client can read."""
    async with a_worker(redis, pool) as running:
        ids = [await plant_alone(redis, poison)]
        await drained(redis, running)
        ids.append(await plant_among_good_ones(redis, poison))
        await drained(redis, running)
    ledger = await rows(connection)
    assert GOOD == outcomes_of(ledger)
    poisoned = [row for job_id, row in ledger.items() if job_id not in GOOD]
    assert [(poison.status, poison.reason)] * 2 == [(row["status"], row["reason"]) for row in poisoned]
    assert all(poison.words in (row["error"] or "") for row in poisoned)
    assert not [line for line in logs if line["event"] in ("hook.failed", "job.unsettled", "redis.unavailable")]
    assert not await redis.exists(
        *(b"arq:%s:%s" % (kind, i) for kind in (b"job", b"retry", b"in-progress") for i in ids)
    )
    if ids == [b"alone", b"among"]:
        assert poison.status == (await JobClient(redis).result("among", timeout_s=5))["status"]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("poison", NEVER_DUE, ids=lambda poison: f"{poison.id} {poison.what}")
async def test_what_is_not_due_stays_where_it_is(poison: Poison, redis: ArqRedis, pool: Pool, connection: Any) -> None:
    """As with stock arq: a job that is due some day, or that another worker seems to run, is that day's or worker's."""
    async with a_worker(redis, pool) as running:
        await plant_among_good_ones(redis, poison)
        await drained(redis, running, left=1)
    assert [b"among"] == await redis.zrange(QUEUE, 0, -1)
    assert GOOD == outcomes_of(await rows(connection))
    assert set(GOOD) == set(await rows(connection))


@pytest.mark.usefixtures("shop")
async def test_a_queue_of_another_type_is_named_and_waited_for(
    redis: ArqRedis, pool: Pool, connection: Any, logs: list[Any]
) -> None:
    """P4: no job can be claimed from it until somebody mends it; then the worker goes on."""
    await redis.set(QUEUE, "not a queue")

    async def it_is_named() -> bool:
        named = [line for line in logs if line["event"] == "redis.unavailable" and f"{QUEUE} is not" in line["error"]]
        assert not running.done()
        return bool(named)

    async with a_worker(redis, pool) as running:
        await until(it_is_named)
        await redis.delete(QUEUE)
        await plant_among_good_ones(redis, Poison("", "nothing", lambda _, job_id: job_id))
        await drained(redis, running)
    assert GOOD == outcomes_of(await rows(connection))


@pytest.mark.usefixtures("emptied")
async def test_endless_ids_that_begin_alike_are_two_jobs(redis: ArqRedis, pool: Pool, connection: Any) -> None:
    """P3: the ledger holds 200 characters of an id; an id of exactly those is a third job."""
    async with a_worker(redis, pool) as running:
        for name, job_id in {"ada": b"x" * 200, "bob": b"x" * 200 + b"1", "eve": b"x" * 200 + b"2"}.items():
            await redis.set(b"arq:job:" + job_id, serialize({**ENVELOPE, "k": user_fields(name)}))
            await redis.zadd(QUEUE, {job_id: ENQUEUED_MS})
        await drained(redis, running)
    assert ["ada", "bob", "eve"] == [r[0] for r in await connection.fetch("SELECT username FROM users ORDER BY 1")]
    assert 3 == len({job_id[:200] for job_id in await rows(connection)})


@pytest.mark.usefixtures("emptied")
async def test_of_a_thousand_twins_on_two_workers_one_is_applied(redis: ArqRedis, pool: Pool, connection: Any) -> None:
    """P16: the first to commit gets the name; all others are rejected because it is taken."""
    async with redis.pipeline(transaction=True) as pipe:
        for n in range(1000):
            fields = user_fields("ada", email=f"{n}@x")
            bare(serialize({**ENVELOPE, "k": fields}))(pipe, b"twin-%d" % n)
        await pipe.execute()
    async with a_worker(redis, pool, "one") as one, a_worker(redis, pool, "two") as other:
        await drained(redis, one)
        assert not other.done()
    reasons = [row["reason"] for row in (await rows(connection)).values()]
    assert (1, 999) == (reasons.count(None), reasons.count("username_taken"))
    assert 1 == await connection.fetchval("SELECT count(*) FROM users")


@pytest.mark.usefixtures("emptied")
async def test_the_same_id_with_other_content_keeps_its_first_outcome(
    redis: ArqRedis, client: JobClient, pool: Pool, connection: Any
) -> None:
    """P18: planted after the first one was settled and forgotten by Redis, it is answered from the ledger."""
    async with a_worker(redis, pool) as running:
        for name in ("ada", "eve"):
            await redis.delete("arq:result:a")
            await client.enqueue("create_user", user_fields(name), job_id="a")
            await drained(redis, running)
    assert ["ada"] == [row["username"] for row in await connection.fetch("SELECT username FROM users")]
    assert {"a"} == set(await rows(connection))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x" * MAX_PAYLOAD_BYTES, "job poison is larger than 1048576 bytes"),
        ("\ud800", "surrogates"),
        (object(), "no place in JSON"),
    ],
    ids=["P7 too large", "P9 lone surrogate", "P5 an object"],
)
async def test_what_no_worker_could_decode_is_refused_when_it_is_enqueued(
    value: Any, words: str, redis: ArqRedis, client: JobClient
) -> None:
    """Alone and among others, none of which is enqueued: the caller sorts them out, and repeats the call."""
    poison = Submission("poison", "create_user", user_fields("eve", full_name=value))
    good = [Submission(job_id, function, fields) for job_id, (function, fields, _) in good_jobs().items()]
    for submissions in ([poison], [*good[:50], poison, *good[50:]]):
        with pytest.raises(ValueError, match=words):
            await client.enqueue_many(submissions)
    assert 0 == await redis.dbsize()


@pytest.mark.parametrize("job_id", ["\ud800", "x" * 2**20, "a\nb", "\x1b[31m"], ids=ascii)
async def test_an_id_that_is_none_is_refused_when_it_is_enqueued(
    redis: ArqRedis, client: JobClient, job_id: str
) -> None:
    """P3; every kind of id is tried in `client/test_client.py`."""
    with pytest.raises(ValueError, match="must have"):
        await client.enqueue("create_user", user_fields(), job_id=job_id)
    assert 0 == await redis.dbsize()
