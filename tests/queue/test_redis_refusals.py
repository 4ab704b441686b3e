"""What Redis says at a start: a lasting fault ends it at once, one that can pass is waited for."""

from typing import Any

import pytest
from arq.connections import ArqRedis
from fake_servers import INFO, listening, redis_that_says
from redis.exceptions import AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from tidepool.health.readiness import Readiness
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import RedisFault, RedisRefused
from worker import app


@pytest.mark.parametrize(
    ("replies", "info", "said"),
    [
        ({}, INFO.replace("enabled:0", "enabled:1"), "Redis Cluster"),
        ({"PING": "-LOADING Redis is loading the dataset in memory"}, INFO, None),
        ({"PING": "-ERR max number of clients reached"}, INFO, None),
        ({}, INFO.replace("standalone", "sentinel"), "Sentinel"),
        ({}, INFO.replace("role:master", "role:slave\r\nslave_read_only:1"), "READONLY"),
        ({"PING": "-ERR unknown command 'PING'"}, INFO, "unknown command 'PING'"),
        ({"PING": "-NOPERM this user may not"}, INFO, "this user may not"),
        ({"SELECT": "-ERR DB index is out of range"}, INFO, "DB index is out of range"),
        ({"AUTH": "-WRONGPASS invalid username-password pair"}, INFO, "invalid username-password pair"),
        ({"PING": "-MOVED 1 10.0.0.1:6379"}, INFO, "MOVED"),
    ],
)
async def test_a_redis_that_cannot_serve_us_is_refused_at_once(
    logs: list[Any], replies: dict[str, str], info: str, said: str | None
) -> None:
    """One that will be able to (*said* is None) is waited for, and its error is logged."""
    async with listening(redis_that_says(replies, info)) as port:
        url = f"redis://:hunter2@127.0.0.1:{port}/3"
        redis = RedisClient.open(url, queue_name="q")
        try:
            with pytest.raises(RedisRefused if said else RedisConnectionError) as met:
                await redis.wait_until_usable(url, patience_s=60 if said else 1.5)
        finally:
            await redis.aclose(close_connection_pool=True)
    assert (said or "") in str(met.value)
    assert (said is None) == (not isinstance(met.value, RedisRefused))
    assert ([] if said else ["server.waited_for"]) == [line["event"] for line in logs]
    assert "hunter2" not in f"{logs} {met.value}"


async def test_a_redis_that_drops_jobs_is_warned_of(logs: list[Any], redis: ArqRedis) -> None:
    """At every start, and in readiness, which it does not fail; a user without INFO is asked no more than PING."""
    evicting = INFO.replace("noeviction", "allkeys-lru")
    async with listening(redis_that_says({}, evicting)) as port:
        other = RedisClient.open(f"redis://127.0.0.1:{port}", queue_name="q")
        await other.wait_until_usable(f"redis://127.0.0.1:{port}")
        readiness = Readiness(other.ask, app.migrations)
        report = (await readiness.look()).document()["checks"]["redis"]
        await other.aclose(close_connection_pool=True)
    assert ["redis.may_drop_jobs"] == [line["event"] for line in logs]
    assert (True, "maxmemory-policy is allkeys-lru") == (report["ok"], report["warning"].partition(":")[0])
    assert "" == await redis.ask()

    async with listening(redis_that_says({"INFO": "-NOPERM no permissions to run the 'info' command"})) as port:
        other = RedisClient.open(f"redis://127.0.0.1:{port}", queue_name="q")
        assert "" == await other.ask()
        await other.wait_until_usable("redis://r", patience_s=1)
        await other.aclose(close_connection_pool=True)


@pytest.mark.parametrize("kind", [AuthenticationError, RedisRefused])
def test_a_refused_connection_ends_a_start_only(kind: type[Exception]) -> None:
    """A running worker waits for the end of it, as when the server is away."""
    fault = RedisFault.of(kind())
    assert fault.is_outage
    assert fault.is_refusal
    assert not fault.is_passing


@pytest.mark.parametrize("kind", [NoPermissionError, AuthenticationWrongNumberOfArgsError])
def test_a_refused_command_ends_a_worker_too(kind: type[Exception]) -> None:
    """Redis would refuse it for ever."""
    fault = RedisFault.of(kind())
    assert fault.is_rejected_command
    assert fault.is_refusal
    assert fault.is_answer
    assert not fault.is_outage
    assert not fault.is_passing
