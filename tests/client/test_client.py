"""The job client on a Redis of dictionaries: what is enqueued, what is known, and a reply that is lost."""

from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest
from arq.connections import ArqRedis
from arq.jobs import ResultNotFound
from factories import a_job, a_submission, a_user, user_fields
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tidepool.client import MOST_AT_ONCE, JobClient
from tidepool.jobs.submission import Submission
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from tidepool.queue.faults import RedisUnavailable
from worker.jobs import JOBS

QUEUE = "arq:queue"


@pytest.fixture
async def redis() -> AsyncIterator[ArqRedis]:
    """Give arq's client of a Redis that exists in this test only."""
    fake = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    pool: Any = fake.connection_pool
    redis = ArqRedis(pool, wire.serialize, wire.deserialize, default_queue_name=QUEUE)
    yield redis
    await redis.aclose(close_connection_pool=True)


@pytest.fixture
def client(redis: ArqRedis) -> JobClient:
    """Give a client that gives up at once."""
    return JobClient(redis, patience_s=0)


async def queued(redis: ArqRedis) -> list[str]:
    """Return the ids in the queue."""
    return sorted(job_id.decode() for job_id in await redis.zrange(QUEUE, 0, -1))


async def test_a_job_is_enqueued_as_arq_expects_it(client: JobClient, redis: ArqRedis) -> None:
    """Payload under its key, id in the queue, due now."""
    assert "a" == await client.enqueue("create_user", user_fields(), job_id="a")
    assert ["a"] == await queued(redis)
    call = wire.receive(await redis.get("arq:job:a") or b"")
    assert {"f": "create_user", "a": [], "k": user_fields(), "t": None} == {n: call[n] for n in "fakt"}
    assert 0 <= (await redis.zscore(QUEUE, "a") or 0) - call["et"] < 10_000  # the first is Redis's clock
    assert 1 == await client.queued()
    assert "queued" == await client.status("a")


async def test_ids_are_made_where_none_is_given(client: JobClient, redis: ArqRedis) -> None:
    """Two equal jobs without an id are two jobs."""
    ids = {await client.enqueue("create_user", user_fields()) for _ in range(2)}
    assert sorted(ids) == await queued(redis)
    assert 2 == len(ids)


@pytest.mark.parametrize("job_id", ["x" * 201, " a", "a\nb", "a\x00", "\x1b[31m", "\ud800", "\u2028"])
async def test_an_id_that_breaks_keys_or_logs_is_refused(client: JobClient, redis: ArqRedis, job_id: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="must have"):
        await client.enqueue("create_user", user_fields(), job_id=job_id)
    assert [] == await queued(redis)


async def test_a_job_that_is_queued_is_a_duplicate(client: JobClient, redis: ArqRedis) -> None:
    """The first content stays."""
    assert [True] == await client.enqueue_many([a_submission("ada", "a")])
    assert [False, True] == await client.enqueue_many([a_submission("eve", "a"), a_submission("bob", "b")])
    assert b"ada" in (await redis.get("arq:job:a") or b"")
    assert ["a", "b"] == await queued(redis)


async def test_a_job_that_has_its_result_is_a_duplicate(client: JobClient, redis: ArqRedis) -> None:
    """Its effect is there."""
    await redis.set("arq:result:a", b"{}")
    assert [False] == await client.enqueue_many([a_submission("ada", "a")])
    assert [] == await queued(redis)


async def test_an_id_twice_in_one_call_is_enqueued_once(client: JobClient, redis: ArqRedis) -> None:
    """The first one given wins."""
    answers = await client.enqueue_many([a_submission("ada", "a"), a_submission("eve", "a"), a_submission("bob", "b")])
    assert [True, False, True] == answers
    assert b"ada" in (await redis.get("arq:job:a") or b"")


async def test_a_settled_job_is_a_duplicate_even_when_redis_has_forgotten_it(redis: ArqRedis, pool: Pool) -> None:
    """The ledger keeps outcomes longer than Redis keeps results; answers stay in their places."""
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(a_user(i), i) for i in "bd"])
    client = JobClient(redis, ledger=pool)
    await redis.set("arq:result:c", b"{}")
    assert [True, False, False, False, True] == await client.enqueue_many([a_submission(job_id=i) for i in "abcde"])
    assert ["a", "e"] == await queued(redis)


async def test_nothing_is_sent_where_everything_is_settled(redis: ArqRedis, pool: Pool) -> None:
    """An empty call sends nothing either."""
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(a_user(i), i) for i in "ab"])
    client = JobClient(redis, ledger=pool)
    assert [False, False] == await client.enqueue_many([a_submission(job_id="a"), a_submission(job_id="b")])
    assert [] == await client.enqueue_many([])
    assert 0 == await redis.dbsize()


async def test_a_requeued_job_runs_again_in_spite_of_its_result(redis: ArqRedis, pool: Pool) -> None:
    """The old result goes, so that nobody takes it for the new one; the ledger is not asked."""
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(a_user("a"), "a")])
    client = JobClient(redis, ledger=pool)
    await redis.set("arq:result:a", b"{}")
    assert [True] == await client.enqueue_many([a_submission(job_id="a")], again=True)
    assert ["a"] == await queued(redis)
    assert not await redis.exists("arq:result:a")


async def test_a_job_in_the_queue_is_not_requeued(client: JobClient, redis: ArqRedis) -> None:
    """It is about to run anyhow, with the content that it has."""
    await client.enqueue_many([a_submission("ada", "a")])
    assert [False] == await client.enqueue_many([a_submission("eve", "a")], again=True)
    assert b"ada" in (await redis.get("arq:job:a") or b"")


async def test_a_full_chunk_goes_in_one_call(client: JobClient, redis: ArqRedis) -> None:
    """Order of the answers included."""
    ids = [f"job-{n:03}" for n in range(MOST_AT_ONCE)]
    await client.enqueue_many([a_submission(job_id=ids[7])])
    answers = await client.enqueue_many([a_submission(job_id=job_id) for job_id in ids])
    assert [job_id != ids[7] for job_id in ids] == answers
    assert ids == await queued(redis)


async def test_more_than_a_chunk_is_refused_before_anything_is_sent(client: JobClient, redis: ArqRedis) -> None:
    """A script that fails half-way is not rolled back: payloads without queue entries would be jobs lost."""
    with pytest.raises(ValueError, match=str(MOST_AT_ONCE)):
        await client.enqueue_many([a_submission() for _ in range(MOST_AT_ONCE + 1)])
    assert 0 == await redis.dbsize()


class LosesReplies:
    """Runs scripts in *redis* from now on, and loses their first replies after they ran."""

    def __init__(self, redis: ArqRedis, *, losses: int) -> None:
        self._run: Any = redis.evalsha
        redis.evalsha = self._run_and_lose
        self._losses = losses
        self.calls = 0

    async def _run_and_lose(self, *parts: Any) -> Any:
        """Run the script; lose the reply while there are losses left."""
        reply = await self._run(*parts)
        self.calls += 1
        if self.calls <= self._losses:
            raise RedisConnectionError("Connection closed by server.")
        return reply


async def test_a_lost_reply_changes_nothing(redis: ArqRedis) -> None:
    """The call is repeated, finds its receipt, and tells what the first one did: no job twice, none as a duplicate."""
    client = JobClient(redis, patience_s=10)
    await client.enqueue_many([a_submission("old", "b")])
    script = LosesReplies(redis, losses=1)
    assert [True, False, True] == await client.enqueue_many([a_submission(job_id=i) for i in "abc"])
    assert ["a", "b", "c"] == await queued(redis)
    assert 2 == script.calls


async def test_a_repetition_does_not_bring_back_a_job_that_ran_meanwhile(redis: ArqRedis) -> None:
    """A worker was faster than the producer's second try."""
    client = JobClient(redis, patience_s=10)
    LosesReplies(redis, losses=1)
    run: Any = redis.evalsha

    async def worker_runs_it_meanwhile(*parts: Any) -> Any:
        try:
            return await run(*parts)
        finally:
            await redis.delete("arq:job:a", QUEUE)

    redis.evalsha = worker_runs_it_meanwhile
    assert [True] == await client.enqueue_many([a_submission(job_id="a")], again=True)
    assert [] == await queued(redis)


@pytest.mark.parametrize(
    "words",
    [
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
    ],
)
async def test_a_redis_that_takes_no_writes_is_waited_for(redis: ArqRedis, words: str) -> None:
    """In a failover, or while it is full; a bug is raised at once."""
    client = JobClient(redis, patience_s=10)
    run: Any = redis.evalsha
    errors = [ResponseError(f"Error running script (call to f_00): @user_script:49: -{words}")]

    async def refuses_once(*parts: Any) -> Any:
        if errors:
            raise errors.pop()
        return await run(*parts)

    redis.evalsha = refuses_once
    assert [True] == await client.enqueue_many([a_submission(job_id="a")])
    errors.append(ResponseError("ERR unknown command"))
    with pytest.raises(ResponseError, match="unknown command"):
        await client.enqueue_many([a_submission(job_id="b")])


async def test_patience_ends(client: JobClient, redis: ArqRedis) -> None:
    """With the error of the last try."""
    script = LosesReplies(redis, losses=99)
    with pytest.raises(RedisUnavailable, match="closed by server"):
        await client.enqueue_many([a_submission()])
    assert 1 == script.calls


async def test_the_result_of_an_applied_job_is_read(client: JobClient, redis: ArqRedis) -> None:
    """As the engine writes it."""
    outcome = {"status": "applied", "result": {"user_id": 7}}
    result = {
        "t": 1,
        "f": "create_user",
        "a": [],
        "k": {},
        "et": 1,
        "s": True,
        "r": outcome,
        "st": 2,
        "ft": 3,
        "q": QUEUE,
    }
    await redis.set("arq:result:a", wire.serialize({**result, "id": "a"}))
    assert outcome == await client.result("a", timeout_s=5)
    await redis.set("arq:result:b", wire.serialize({**result, "s": False, "r": RuntimeError("gave up")}))
    with pytest.raises(RuntimeError, match="gave up"):
        await client.result("b", timeout_s=5)


async def test_the_result_of_a_job_that_is_not_there_is_not_waited_for(client: JobClient) -> None:
    """Nobody would ever write it."""
    with pytest.raises(ResultNotFound):
        await client.result("a", timeout_s=5)
    assert "not_found" == await client.status("a")


async def test_the_result_of_a_job_that_waits_has_a_deadline(client: JobClient) -> None:
    """The caller's."""
    await client.enqueue_many([a_submission(job_id="a")])
    with pytest.raises(TimeoutError):
        await client.result("a", timeout_s=0.05)


async def test_money_goes_into_the_queue_as_it_was_given(client: JobClient, redis: ArqRedis) -> None:
    """Fields are JSON-ready already: nothing is converted on the way."""
    fields = {"sku": "LAMP", "name": "Lamp", "price": "12.50", "category": "Home"}
    await client.enqueue_many([Submission("a", "create_product", fields)])
    assert b'"price":"12.50"' in (await redis.get("arq:job:a") or b"")


async def test_large_jobs_are_sent_a_few_at_a_time(redis: ArqRedis) -> None:
    """Redis never has more than 4 MiB of a call at hand; the answers are those of one call, its twins among them."""
    client = JobClient(redis)
    sizes: list[int] = []
    run: Any = redis.evalsha

    async def measured(sha: str, count: int, *keys_and_args: Any) -> Any:
        reply = await run(sha, count, *keys_and_args)
        sizes.append(sum(len(arg) for arg in keys_and_args[count + 2 :]))
        return reply

    redis.evalsha = measured
    large = {"description": "x" * 1_000_000}
    jobs = [Submission(f"large-{n}", "create_product", large) for n in range(9)]

    assert [True] * 9 + [False] == await client.enqueue_many([*jobs, jobs[0]])
    assert 9 == await redis.zcard("arq:queue")
    assert 3 == len(sizes)
    assert max(sizes) <= 4 * 2**20


async def test_a_queue_of_another_type_is_named_and_nothing_is_written(redis: ArqRedis) -> None:
    """A payload without its place in the queue would make the next enqueueing a duplicate."""
    await redis.set("arq:queue", "not a queue")
    with pytest.raises(RedisUnavailable, match="the queue arq:queue is not a sorted set"):
        await JobClient(redis, patience_s=0.0).enqueue_many([a_submission()])
    assert [b"arq:queue"] == await redis.keys("*")


async def test_a_forged_result_makes_a_duplicate_and_no_outcome(redis: ArqRedis, pool: Pool) -> None:
    """The enqueueing says that the id is known; that it has an outcome is the ledger's to say, which has none."""
    await redis.set("arq:result:forged", b'{"s":true,"r":{"status":"applied","result":{"user_id":1}}}')
    client = JobClient(redis, ledger=pool)
    assert [False] == await client.enqueue_many([a_submission(job_id="forged")])
    assert [] == await client.finished(["forged"])
    assert [True] == await client.enqueue_many([a_submission(job_id="forged")], again=True)
    assert not await redis.exists("arq:result:forged")
