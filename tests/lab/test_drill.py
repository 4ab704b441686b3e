"""The drill as a command: faults, and every job accounted for."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from commands import Service

RARE = "redis-read-only,disk-full,clock-ahead,clock-behind,log-unread,big-payloads,odd-values"
QUICK = "kill-after-commit,kill-before-finish,commit-reply-lost,redis-crash"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--fault", QUICK), id="short", marks=pytest.mark.slow),
        pytest.param(("--minutes", "2"), id="two minutes", marks=pytest.mark.slow),
        pytest.param(("--fault", RARE), id="rare", marks=pytest.mark.slow),
    ],
)
def test_every_job_is_accounted_for(service: Service, words: tuple[str, ...]) -> None:
    """Whatever was killed or cut when: none lost, none doubled, none wrong, and no worker ended by itself."""
    ended = service.run(
        "lab", "drill", *words, "--seed", "11", "--rate", "300", "--shots", "2", "--json", timeout_s=230
    )
    assert 0 == ended.status, ended.stdout + ended.stderr
    assert ended.document["holds"]
    assert not any(ended.document["verdict"]["counts"].values())
    assert ended.document["verdict"]["jobs"] > 5000


def test_the_faults_are_listed(service: Service) -> None:
    """An unknown fault is refused, and the error lists their names."""
    listed = service.run("lab", "drill", "--list", "--json").document
    assert {"kill", "commit-reply-lost", "redis-flushed"} <= {fault["fault"] for fault in listed}
    needy = {fault["fault"] for fault in listed if fault["needs"]}
    assert {"postgres-away", "redis-flushed"} <= needy
    assert not needy & {"kill", "commit-reply-lost"}
    refused = service.run("lab", "drill", "--fault", "kill,earthquake")
    assert 2 == refused.status
    assert "earthquake: not of kill," in refused.stderr


def test_the_old_command_still_works_and_says_where_it_is(service: Service) -> None:
    """What it prints on standard output stays one document."""
    ended = service.run("worker", "drill", "--list", "--json")
    assert 0 == ended.status
    assert service.run("lab", "drill", "--list", "--json").document == ended.document
    assert "python -m worker drill has moved: python -m lab drill" == ended.stderr.strip()


NAMED = ("--rate", "200", "--fault", "commit-reply-lost,kill-supervised", "--shots", "3", "--seed", "5", "--json")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_drill_on_servers_that_are_named(service: Service, rows: Any) -> None:
    """Twice: what the first has left is removed, for the same seed makes the same jobs."""
    words = ("lab", "drill", *named(service), *NAMED, "--yes")
    for _ in range(2):
        ended = service.run(*words, timeout_s=110)
        assert 0 == ended.status, ended.stdout + ended.stderr
        (left,) = await rows("SELECT count(*) AS n FROM job_results")
        assert ended.document["verdict"]["jobs"] == left["n"]


def named(service: Service) -> tuple[str, ...]:
    """Return the words that name the test's own servers."""
    return "--database", service.environment["DATABASE_URL"], "--redis", service.environment["REDIS_URL"]


@pytest.mark.parametrize(
    ("words", "harm", "why"),
    [
        ((), "", "there is no terminal to ask for consent"),
        (("--yes",), "INSERT INTO users (username, email, full_name) VALUES ('a', 'a@b', 'c')", "in users"),
        (("--yes",), "CREATE TABLE other AS SELECT 1 AS id", "in public.other"),
        (("--yes", "--fault", "locked,redis-crash"), "", "redis-crash: only on servers of the drill's own"),
    ],
)
async def test_servers_that_may_not_be_broken(
    service: Service, connection: Any, words: tuple[str, ...], harm: str, why: str
) -> None:
    """Nobody has agreed, somebody's rows are there, or the fault would reach beyond this database."""
    if harm:
        await connection.execute(harm)
    ended = await asyncio.to_thread(service.run, "lab", "drill", *named(service), *words)
    assert 2 == ended.status
    assert why in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


@pytest.mark.parametrize(
    ("named_database", "named_redis", "why"),
    [
        ("foo", "redis://h/5", "--database: must begin with postgresql:// or postgres://"),
        ("postgresql://h:x/shop", "redis://h/5", "--database: has a port that is not a number"),
        ("postgresql://h/shop", "foo", "--redis: must begin with redis:// or rediss:// or unix://"),
        ("postgresql://h/shop", "redis://h:x", "--redis: has a port that is not a number"),
        ("postgresql://h/shop?target_session_attrs=x", "redis://h/5", "--database: has parameter target_session_attrs"),
    ],
)
def test_servers_whose_names_are_wrong(service: Service, named_database: str, named_redis: str, why: str) -> None:
    """A line each, as for the settings of the same kind."""
    ended = service.run("lab", "drill", "--database", named_database, "--redis", named_redis, "--yes")
    assert (2, "") == (ended.status, ended.stdout)
    assert why in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


async def test_a_queue_that_is_not_empty(service: Service, redis: ArqRedis) -> None:
    """Its jobs are somebody's."""
    await redis.enqueue_job("create_user")
    ended = await asyncio.to_thread(service.run, "lab", "drill", *named(service), "--yes")
    assert 2 == ended.status
    assert "the queue arq:queue has 1 jobs" in ended.stderr
