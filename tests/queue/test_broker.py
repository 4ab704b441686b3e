"""The connection to Redis: its limits, what it hides, and that it can be given up."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from tidepool.queue.connection import SOCKET_TIMEOUT_S, RedisClient
from tidepool.queue.faults import RedisRefused


async def test_a_task_that_talks_to_redis_can_be_cancelled(redis: ArqRedis) -> None:
    """At once, whatever it is just doing: a worker that is asked to stop must not go on polling."""

    async def poll() -> None:
        while True:
            await redis.zrange("arq:queue", 0, 9)

    await redis.ping()
    lost = 0
    for turns in range(40):
        polling = asyncio.create_task(poll())
        for _ in range(turns):
            await asyncio.sleep(0)
        polling.cancel()
        await asyncio.wait([polling], timeout=0.05)
        while not polling.done():
            lost += 1
            polling.cancel()
            await asyncio.wait([polling], timeout=0.05)
    assert 0 == lost


async def test_a_silent_server_is_given_up(redis: ArqRedis) -> None:
    """The library has no limit of its own."""
    options: dict[str, Any] = redis.connection_pool.connection_kwargs
    assert SOCKET_TIMEOUT_S == options["socket_timeout"]
    assert 5.0 == options["socket_connect_timeout"]


async def test_tls_checks_the_servers_name() -> None:
    """redis-py does not by default."""
    options: dict[str, Any] = RedisClient.open("rediss://r", queue_name="q").connection_pool.connection_kwargs
    assert options["ssl_check_hostname"]
    assert RedisClient.settings_for("rediss://r").ssl_check_hostname


def test_a_password_is_in_no_repr_of_arqs_settings() -> None:
    """The arq command prints them."""
    assert "hunter2" not in repr(RedisClient.settings_for("redis://:hunter2@r:6379/3"))
    assert "hunter2" == RedisClient.settings_for("redis://:hunter2@r:6379/3").password


def test_arqs_settings_are_what_the_url_says() -> None:
    """Arq's own reading takes a quoted password as it stands, and knows of no CA."""
    settings = RedisClient.settings_for(f"rediss://worker:a%40b@r:6380/3?ssl_ca_certs={__file__}")
    assert ("worker", "a@b", "r", 6380, 3) == (
        settings.username,
        settings.password,
        settings.host,
        settings.port,
        settings.database,
    )
    assert __file__ == settings.ssl_ca_certs


async def test_a_server_that_answers_is_not_waited_for(redis: ArqRedis, redis_url: str, logs: list[Any]) -> None:
    """Nothing is logged."""
    await redis.wait_until_usable(redis_url)
    assert [] == logs


async def test_patience_ends_with_the_last_error() -> None:
    """As the caller's error."""
    away = RedisClient.open("unix:///nowhere/redis.sock", queue_name="q")
    with pytest.raises(RedisConnectionError):
        await away.wait_until_usable("unix:///nowhere/redis.sock", patience_s=0.1)
    await away.aclose(close_connection_pool=True)


async def test_a_user_that_may_not_even_ask_is_refused(redis: ArqRedis) -> None:
    """At once, whatever the patience: more rights do not come by waiting."""

    async def refuse() -> None:
        raise NoPermissionError("this user has no permissions to run the 'ping' command")

    redis.ping = refuse
    with pytest.raises(RedisRefused, match="no permissions to run the 'ping' command"):
        await redis.wait_until_usable("redis://r", patience_s=60)
