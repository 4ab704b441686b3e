"""The jobs room of the front: outcomes page by page, one job, and running jobs again or aborting them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urljoin

import pytest
from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss
from factories import a_job, a_product, a_submission, a_user, an_order
from front import a_front
from httpx import AsyncClient

from tidepool.client import JobClient
from tidepool.jobs.outcomes import Failed, RetryLater
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.queue.leases import Leases
from worker.jobs import JOBS

TEXTS = ["\x00", "%00", "a/b", "ä", "😀", "%", "_", "'", '"', "\\", "x" * 200]


@pytest.fixture
async def http(database: PoolConfig, redis_url: str) -> AsyncIterator[AsyncClient]:
    """Give a client of a front on the test's servers."""
    async with a_front(database.url, redis_url) as client:
        yield client


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    """Give a ledger over the test's pool."""
    return Ledger(pool, JOBS, worker_id="worker-1")


async def fail(ledger: Ledger, *ids: str, error: str = "gave up", function: str = "create_user") -> None:
    """Let jobs fail, each with a row that is younger than the one before."""
    for job_id in ids:
        await ledger.settle(function, [a_job(Failed(error), job_id, content={"username": job_id})])


async def listed(http: AsyncClient, **parameters: Any) -> list[str]:
    """Return the ids of all pages, in their order."""
    ids: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = (await http.get("/jobs", params={**parameters, **cursor})).json()
        ids += [job["job_id"] for job in answer["jobs"]]
        if answer["next"] is None:
            return ids
        cursor = {"cursor": answer["next"]}


async def test_pages_go_back_without_a_gap_or_a_twin(http: AsyncClient, ledger: Ledger, connection: Any) -> None:
    """In the order of time and, where that is the same, of the ids; whatever the length of a page."""
    await fail(ledger, *(f"job-{n}" for n in range(7)))
    await connection.execute("UPDATE job_results SET finished_at = '2026-01-01' WHERE job_id IN ('job-3', 'job-5')")
    expected = ["job-6", "job-4", "job-2", "job-1", "job-0", "job-5", "job-3"]
    for limit in (1, 2, 3, 7, 50):
        assert expected == await listed(http, limit=limit)


async def test_a_row_that_comes_between_two_pages_moves_nothing(http: AsyncClient, ledger: Ledger) -> None:
    """The next page begins behind the last row, not at a number."""
    await fail(ledger, "a", "b", "c")
    first = (await http.get("/jobs", params={"limit": 2})).json()
    await fail(ledger, "d")
    second = (await http.get("/jobs", params={"limit": 2, "cursor": first["next"]})).json()
    assert (["c", "b"], ["a"], None) == (
        [job["job_id"] for job in first["jobs"]],
        [job["job_id"] for job in second["jobs"]],
        second["next"],
    )


async def test_a_filter_leaves_the_others_out(http: AsyncClient, ledger: Ledger, connection: Any) -> None:
    """By status, function and age, and all of them together."""
    await ledger.settle("create_product", [a_job(a_product(), "product")])
    await ledger.settle("place_order", [a_job(an_order("nobody"), "order", is_last_attempt=True)])
    await fail(ledger, "failed", "old")
    await connection.execute("UPDATE job_results SET finished_at = now() - interval '1 hour' WHERE job_id = 'old'")
    assert ["failed", "order", "product", "old"] == await listed(http)
    assert ["failed", "old"] == await listed(http, status="failed")
    assert ["product"] == await listed(http, function="create_product")
    assert ["failed"] == await listed(http, status="failed", function="create_user", since="10m")
    assert [] == await listed(http, status="applied", function="place_order")


async def test_a_search_looks_at_ids_reasons_and_errors(http: AsyncClient, ledger: Ledger) -> None:
    """An id by how it begins; the words of a reason or an error wherever they stand, in whatever case."""
    await ledger.settle("place_order", [a_job(an_order("nobody"), "order-1", is_last_attempt=True)])
    await fail(ledger, "order-2", error="RuntimeError: the Lamp broke")
    await fail(ledger, "my-order", "100%", error="TimeoutError")
    assert ["order-2", "order-1"] == await listed(http, search="order-")
    assert ["order-1"] == await listed(http, search="UNKNOWN_user")
    assert ["order-2"] == await listed(http, search="lamp BROKE")
    assert ["order-2"] == await listed(http, search="order", status="failed", since="1h")
    assert ["100%"] == await listed(http, search="100%")
    assert [] == await listed(http, search="%")


async def test_a_search_looks_through_so_many_rows_at_a_time(
    http: AsyncClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may then be empty and yet have a next one; no row is left out, and none comes twice."""
    monkeypatch.setattr("tidepool.storage.results._MAX_NOT_APPLIED", 2)
    monkeypatch.setattr("tidepool.storage.results._MAX_LOOKED_AT", 3)
    await fail(ledger, "x-0", error="needle")
    await fail(ledger, *(f"hay-{n}" for n in range(5)))
    await fail(ledger, "needle-6", error="needle")
    await fail(ledger, "hay-7")
    first = (await http.get("/jobs", params={"search": "x-"})).json()
    assert ([], False) == (first["jobs"], first["next"] is None)
    assert ["needle-6", "x-0"] == await listed(http, search="needle", limit=1)
    assert ["x-0"] == await listed(http, search="x-")
    assert [] == await listed(http, function="place_order")
    assert 8 == len(await listed(http, function="create_user", limit=2))
    assert None is (await http.get("/jobs", params={"function": "x", "since": "0s"})).json()["next"]


async def test_no_text_breaks_a_query(http: AsyncClient, ledger: Ledger) -> None:
    """Whatever is searched for, or taken for an id, a function or a cursor, is answered, and never with a 500."""
    await fail(ledger, "a", "😀")
    for text in TEXTS:
        for name in ("search", "function", "cursor", "since", "status"):
            assert (await http.get("/jobs", params={name: text})).status_code in (200, 422)
        assert (await http.get(f"/jobs/{quote(text, safe='')}")).status_code in (200, 404, 422)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "WzEsMl0=", "ä", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwieCJd"])
async def test_a_cursor_that_was_not_handed_out_is_refused(http: AsyncClient, cursor: str) -> None:
    """As a problem with its code; the last one is a time without a zone."""
    answer = await http.get("/jobs", params={"cursor": cursor})
    assert (422, "invalid") == (answer.status_code, answer.json()["code"])


async def test_a_job_that_is_retried_says_why_and_when(http: AsyncClient, client: JobClient, redis: ArqRedis) -> None:
    """Out of Redis: the ledger has no row before the outcome. What cannot be read there is unknown, and no error."""
    await client.enqueue_many([a_submission(job_id="j")])
    leases = Leases(redis, redis.default_queue_name, lease_ms=5000)
    ((job,), _) = await leases.claim("o", 10, suspect_too=False)
    job.attempt = 2
    await leases.finish("o", [(job, RetryLater(60.0, "ValueError"))])
    await redis.set("arq:cause:j", b"ValueError: no\xff luck")
    answer = (await http.get("/jobs/j")).json()
    assert ("deferred", "create_user", 2) == tuple(answer[name] for name in ("status", "function", "attempts"))
    assert "ValueError: no\ufffd luck" == answer["last_error"]
    assert 0 < (datetime.fromisoformat(answer["due_at"]) - datetime.now(UTC)).total_seconds() < 61
    await redis.set("arq:job:j", b"\xff")
    await redis.delete("arq:cause:j")
    await redis.rpush("arq:cause:j", "x")
    answer = (await http.get("/jobs/j")).json()
    assert (None, None) == (answer["function"], answer["last_error"])
    await redis.set("arq:retry:j", b"\xff")
    assert {"id", "status", "url"} == set((await http.get("/jobs/j")).json())


async def test_a_job_is_its_outcome_or_else_what_the_queue_knows(
    http: AsyncClient, ledger: Ledger, client: JobClient, redis: ArqRedis
) -> None:
    """Queued, deferred, settled, taken back, unknown; an id may have slashes."""
    await client.enqueue_many([a_submission(job_id="file.jsonl/1")])
    await redis.enqueue_job("create_user", _job_id="later", _defer_by=1000)
    await ledger.settle("create_user", [a_job(a_user(), "done")])
    queued = (await http.get("/jobs/file.jsonl%2F1")).json()
    done = (await http.get("/jobs/done")).json()
    assert {"id": "file.jsonl/1", "status": "queued", "url": "/jobs/file.jsonl%2F1"} == queued
    assert "deferred" == (await http.get("/jobs/later")).json()["status"]
    assert ("done", "applied", {"user_id": 1}, "/jobs/done") == tuple(
        done[name] for name in ("id", "status", "result", "url")
    )
    assert 404 == (await http.get("/jobs/nobody")).status_code


async def test_one_job_runs_again(http: AsyncClient, ledger: Ledger, client: JobClient) -> None:
    """One that failed; it is queued again. Applied ones, and ids that nobody knows, say why not."""
    await ledger.settle("create_user", [a_job(a_user(), "done")])
    await fail(ledger, "a/b")
    answer = await http.post("/jobs/a%2Fb/requeue")
    assert (202, {"requeued": 1, "left_out": 0}, 1) == (answer.status_code, answer.json(), await client.queued())
    assert "queued" == (await http.get("/jobs/a%2Fb")).json()["status"]
    assert (409, 404) == (
        (await http.post("/jobs/done/requeue")).status_code,
        (await http.post("/jobs/nobody/requeue")).status_code,
    )


async def test_all_jobs_of_a_filter_run_again(http: AsyncClient, ledger: Ledger, client: JobClient) -> None:
    """No other jobs run again: the filter is that of the list."""
    await fail(ledger, "a", "b", error="TimeoutError")
    await fail(ledger, "c", error="RuntimeError")
    await fail(ledger, "order", error="TimeoutError", function="place_order")
    wanted = {"status": "failed", "function": "create_user", "since": "1h", "search": "timeout"}
    answer = await http.post("/jobs/requeue", params=wanted)
    assert (202, {"requeued": 2, "left_out": 0}, 2) == (answer.status_code, answer.json(), await client.queued())
    assert ["queued", "queued", "failed", "failed"] == [
        (await http.get(f"/jobs/{job_id}")).json()["status"] for job_id in ("a", "b", "c", "order")
    ]


async def test_a_requeue_of_everything_is_refused(http: AsyncClient, ledger: Ledger, client: JobClient) -> None:
    """It is what browsers make of the job `.`, which stock clients can enqueue. Each of the parameters is enough."""
    await fail(ledger, "a", ".")
    answer = await http.post(urljoin("http://localhost/", "/jobs/./requeue"))
    assert (422, "invalid", 0) == (answer.status_code, answer.json()["code"], await client.queued())
    for name, value in (("function", "create_user"), ("search", "."), ("since", "1h"), ("status", "failed")):
        assert 202 == (await http.post("/jobs/requeue", params={name: value})).status_code
    assert 2 == await client.queued()


async def test_a_job_taken_back_that_never_reached_the_queue_is_still_known(
    http: AsyncClient, ledger: Ledger, connection: Any
) -> None:
    """Its row says that it was taken back; the next requeue makes up for it."""
    await fail(ledger, "a")
    await connection.execute("UPDATE job_results SET requeued_at = now()")
    job = (await http.get("/jobs/a")).json()
    assert ("failed", True) == (job["status"], job["requeued_at"] is not None)


async def test_an_abort_marks_the_job(http: AsyncClient, ledger: Ledger, client: JobClient, redis: ArqRedis) -> None:
    """As arq does; a deferred one becomes due, so that a worker finds the mark. What is settled stays."""
    await client.enqueue_many([a_submission(job_id="job")])
    await redis.enqueue_job("create_user", _job_id="later", _defer_by=1000)
    await ledger.settle("create_user", [a_job(a_user(), "done")])
    answers = [await http.post(f"/jobs/{job_id}/abort") for job_id in ("job", "later", "done", "nobody")]
    assert [202, 202, 409, 404] == [answer.status_code for answer in answers]
    assert {b"job", b"later"} == set(await redis.zrange(abort_jobs_ss, 0, -1))
    assert 1 == await redis.zscore("arq:queue", "later")


async def test_the_primary_key_finds_ids_that_begin_alike(connection: Any) -> None:
    """Whatever the locale of the database; else a search would read all rows."""
    await connection.execute("SET enable_seqscan = off")
    plan = await connection.fetch("EXPLAIN SELECT job_id FROM job_results WHERE job_id ^@ 'ab'")
    assert any("Index Cond: ((job_id >= 'ab'::text) AND (job_id < 'ac'::text))" in row[0] for row in plan)
    assert "C" == await connection.fetchval(
        "SELECT collation_name FROM information_schema.columns WHERE table_name = 'job_results'"
        " AND column_name = 'job_id'"
    )


async def test_lists_have_no_arguments_and_are_bounded_in_bytes(http: AsyncClient, ledger: Ledger) -> None:
    """A job's own answer has them. Every row is listed, on more pages, and long results and errors are left to it."""
    content = {"username": "x" * 60_000}
    for number in range(5):
        job = a_job(Failed("é" * 3000), f"big-{number}", content=content)
        await ledger.settle("create_user", [job])
    answer = await http.get("/jobs", params={"limit": 200})
    assert len(answer.content) < 100_000
    rows = answer.json()["jobs"]
    assert ["args" in row for row in rows] == [False] * 5
    assert [row["requeueable"] for row in rows] == [True] * 5
    assert {2000} == {len(row["error"]) for row in rows}
    one = (await http.get("/jobs/big-0")).json()
    assert (content, "é" * 3000) == (one["args"], one["error"])


async def test_a_page_ends_with_the_row_that_fills_it(
    http: AsyncClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one begins behind it, whether it is a page or a search; a row that is too large alone is a page."""
    await fail(ledger, *(f"job-{n}" for n in range(7)), error="lost " * 40)
    expected = [f"job-{n}" for n in reversed(range(7))]
    for most in (1, 199, 201, 500, 10_000):
        monkeypatch.setattr("tidepool.storage.results.MAX_PAGE_BYTES", most)
        assert expected == await listed(http)
        assert expected == await listed(http, search="lost")
    monkeypatch.setattr("tidepool.storage.results.MAX_PAGE_BYTES", 500)
    assert 3 == len((await http.get("/jobs")).json()["jobs"])
