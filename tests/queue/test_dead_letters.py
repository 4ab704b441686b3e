"""Dead letters in Redis: what is kept of a job, and how it comes back or is deleted."""

import asyncio
import json
from typing import Any

import pytest
from arq.connections import ArqRedis
from commands import Service
from leasing import QUEUE, claim, done, enqueue, finished, lapse

from tidepool.client import JobClient
from tidepool.jobs.outcomes import RetryLater
from tidepool.queue.finisher import Lacks, SetAside
from tidepool.queue.leases import Leases

NOBODY = SetAside(Lacks.FUNCTION, "function 'f' not found", "f")


async def set_aside(redis: ArqRedis, leases: Leases, *job_ids: str) -> None:
    """Make dead letters."""
    await enqueue(redis, *job_ids)
    await claim(leases, "me")
    await leases.finish("me", [finished(job_id, NOBODY) for job_id in job_ids])


async def test_a_dead_letter_keeps_its_content_for_ever_and_nothing_else_is_left(
    redis: ArqRedis, leases: Leases, client: JobClient
) -> None:
    """No mark, no count of tries, no time limit."""
    await enqueue(redis, "a")
    await redis.pexpire("arq:job:a", 60_000)
    due, content = await redis.zscore(QUEUE, "a"), await redis.get("arq:job:a")
    await claim(leases, "me")
    await leases.finish("me", [finished("a", RetryLater(cause="before"))])
    await claim(leases, "me")

    assert [True] == await leases.finish("me", [finished("a", NOBODY, attempt=2, is_retry=True)])
    (letter,) = await client.dead_letters.oldest(10)
    kept = f"{QUEUE}:dead-letter:{letter.number}"
    assert {f"{QUEUE}:dead-letters".encode(), kept.encode()} == set(await redis.keys("*"))
    assert (content, -1) == (await redis.get(kept), await redis.ttl(kept))
    assert ("a", "f", due, len(content)) == (letter.job_id, letter.function, letter.due_ms, letter.size)
    seconds, _ = await redis.time()
    assert abs(letter.since_ms - 1000 * seconds) < 10_000


async def test_a_lost_owner_makes_none(redis: ArqRedis, leases: Leases, client: JobClient) -> None:
    """The job is another worker's now."""
    await enqueue(redis, "a")
    await claim(leases, "lost")
    await lapse(redis, "lost")
    assert ["a"] == await claim(leases, "other")

    assert [False] == await leases.finish("lost", [finished("a", NOBODY)])
    assert 0 == await client.dead_letters.count()
    assert await redis.exists("arq:job:a")


@pytest.mark.parametrize("lacks", [Lacks.FUNCTION, Lacks.DESERIALIZER])
async def test_what_a_live_worker_has_announced_is_given_back(
    redis: ArqRedis, leases: Leases, client: JobClient, lacks: Lacks
) -> None:
    """Its try is not spent; an announcement that is over counts no more."""
    await enqueue(redis, "a")
    await redis.set("arq:retry:a", "1")
    await claim(leases, "me")
    await leases.announce(["g"], "json")
    await leases.announce(["f"], "pickle")
    ending = SetAside(lacks, "why", "f")

    assert [True] == await leases.finish("me", [finished("a", ending, attempt=2, is_retry=True)])
    assert (0, b"1") == (await client.dead_letters.count(), await redis.get("arq:retry:a"))
    await redis.zadd(QUEUE, {"a": 1})
    await claim(leases, "me")
    for key in ("functions", "deserializers"):
        await redis.zadd(f"{QUEUE}:{key}", {"f": 1, "pickle": 1})
    await leases.finish("me", [finished("a", ending)])
    assert 1 == await client.dead_letters.count()


async def test_announcements_are_forgotten_when_no_worker_is_left(redis: ArqRedis, leases: Leases) -> None:
    """Both keys expire ten minutes after the last announcement; each renews them."""
    names = [f"{QUEUE}:functions", f"{QUEUE}:deserializers"]
    await leases.announce(["f"], "json")
    for name in names:
        await redis.expire(name, 1)
    await leases.announce(["g"], "pickle")
    assert all([590_000 < await redis.pttl(name) <= 600_000 for name in names])


async def test_a_job_that_has_lost_its_content_is_given_back(
    redis: ArqRedis, leases: Leases, client: JobClient
) -> None:
    """It has expired since it was claimed: the next claim finds that it has none."""
    await enqueue(redis, "a")
    await claim(leases, "me")
    await redis.delete("arq:job:a")

    assert [True] == await leases.finish("me", [finished("a", NOBODY)])
    assert (0, 1) == (await client.dead_letters.count(), await redis.zcard(QUEUE))


async def test_letters_of_one_id_are_kept_side_by_side(redis: ArqRedis, leases: Leases, client: JobClient) -> None:
    """Nothing is overwritten; the oldest comes back first, and the other one waits until the id is free."""
    await set_aside(redis, leases, "a")
    await set_aside(redis, leases, "a")
    assert ["a", "a"] == [letter.job_id for letter in await client.dead_letters.oldest(10)]
    assert ["a"] == await client.dead_letters.requeue({"a"})
    assert 1 == await client.dead_letters.count()
    await claim(leases, "me")
    await leases.finish("me", [done("a")])
    assert ["a"] == await client.dead_letters.requeue({"a"})
    assert not await redis.exists("arq:result:a")
    assert 0 == await client.dead_letters.count()


async def test_an_id_that_is_in_the_queue_is_not_overwritten(
    redis: ArqRedis, leases: Leases, client: JobClient
) -> None:
    """The dead letter stays."""
    await set_aside(redis, leases, "a", "b")
    await redis.set("arq:job:a", "another")
    await redis.zadd(QUEUE, {"a": 5})

    assert ["b"] == await client.dead_letters.requeue()
    assert (b"another", 5.0) == (await redis.get("arq:job:a"), await redis.zscore(QUEUE, "a"))
    assert ["a"] == [letter.job_id for letter in await client.dead_letters.oldest(10)]


async def test_many_are_listed_in_pages_and_deleted(redis: ArqRedis, leases: Leases, client: JobClient) -> None:
    """All, or those that are named."""
    ids = [f"{number:03}" for number in range(600)]
    for first in range(0, 600, 200):
        await set_aside(redis, leases, *ids[first : first + 10])
    for number in range(600):
        letter = await redis.xadd(f"{QUEUE}:dead-letters", {"id": f"x{number}"})
        await redis.set(f"{QUEUE}:dead-letter:{letter.decode()}", "x")
    assert 630 == await client.dead_letters.count()
    assert ["000", "001"] == [letter.job_id for letter in await client.dead_letters.oldest(2)]
    assert ["x599"] == [letter.job_id for letter in await client.dead_letters.oldest(5, {"x599"})]
    assert ["000", "x599"] == await client.dead_letters.discard({"x599", "000", "not there"})
    assert 628 == len(await client.dead_letters.discard())
    assert [] == await redis.keys("*")


@pytest.mark.parametrize(
    "plant",
    [
        ("SET", "{key}", "text"),
        ("ZADD", "{key}", "1", "member"),
        ("XADD", "{key}", "18446744073709551615-18446744073709551615", "id", "last"),
        ("XADD", "{key}", "99999999999999999-0", "no", "id"),
    ],
    ids=["text", "set", "last id", "future"],
)
async def test_what_others_write_there_loses_no_job(
    redis: ArqRedis, leases: Leases, client: JobClient, plant: tuple[str, ...]
) -> None:
    """The job is a dead letter, or stays in the queue."""
    await redis.execute_command(*(word.format(key=f"{QUEUE}:dead-letters") for word in plant))
    await set_aside(redis, leases, "a")
    queued = await redis.zcard(QUEUE)
    assert await redis.exists("arq:job:a") == queued
    assert (not queued) == bool(await client.dead_letters.oldest(10, {"a"}))


async def test_operators_list_requeue_and_discard_them(redis: ArqRedis, leases: Leases, service: Service) -> None:
    """By the command; unknown ids are named, and end it with status 1."""
    await set_aside(redis, leases, "a", "b", "c")

    async def run(*words: str) -> Any:
        return await asyncio.to_thread(service.run, "worker", "dead-letters", *words)

    listed = await run("--json")
    assert ["a", "b", "c"] == [row["job_id"] for row in listed.document]
    assert {"job_id", "function", "reason", "since", "due_at", "bytes"} == set(listed.document[0])
    for_people = await run("--limit", "2")
    assert "function 'f' not found" in for_people.stdout
    assert "the oldest of 3" in for_people.stderr
    requeued = await run("--requeue", "a", "x", "--json")
    assert (1, {"requeued": 1, "not_requeued": ["x"]}) == (requeued.status, requeued.document)
    assert [b"a"] == await redis.zrange(QUEUE, 0, -1)
    discarded = await run("--discard", "b")
    assert (0, "discarded 1\n") == (discarded.status, discarded.stdout)
    rest = await run("--requeue")
    assert (0, "requeued 1\n") == (rest.status, rest.stdout)
    assert "no dead letters\n" == (await run()).stdout
    assert [] == json.loads((await run("--json")).stdout)
