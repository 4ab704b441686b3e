"""A server of another kind at the address: it is recognized, and the start is refused."""

from typing import Any

import pytest
from fake_servers import listening, that_answers

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Refused, Unavailable
from tidepool.protocols import other_than
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import RedisRefused
from tidepool.urls import PostgresUrl


@pytest.mark.parametrize(
    ("reply", "of_postgresql", "of_redis"),
    [
        (b"N", None, "speaks PostgreSQL, not Redis"),
        (b"-ERR wrong number of arguments", "speaks Redis, not PostgreSQL", None),
        (b"HTTP/1.1 400 Bad Request", "speaks HTTP, not PostgreSQL", "speaks HTTP, not Redis"),
        (b"", None, None),
    ],
)
async def test_another_server_at_the_address_is_found_out(
    reply: bytes, of_postgresql: str | None, of_redis: str | None
) -> None:
    """Waiting would go on for ever; one that closes without a word may be a proxy, and is waited for."""
    async with listening(that_answers(reply)) as port:
        for expected, said in (("PostgreSQL", of_postgresql), ("Redis", of_redis)):
            assert (said or "") in await other_than(expected, ("127.0.0.1", port))


async def test_a_wrong_url_of_a_running_server_is_refused(servers: Any) -> None:
    """Redis's URL names PostgreSQL, or a Redis without TLS."""
    database = servers.database_url("postgres")
    parsed = PostgresUrl.parse(database)
    url = f"unix://{parsed.hosts[0]}/.s.PGSQL.{(parsed.ports or (5432,))[0]}"
    redis = RedisClient.open(url, queue_name="q")
    try:
        with pytest.raises(RedisRefused, match="speaks PostgreSQL, not Redis"):
            await redis.wait_until_usable(url)
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_a_database_url_that_names_a_redis_is_refused() -> None:
    """It gets PostgreSQL's first packet, and does not answer."""

    async def fail() -> None:
        raise Unavailable("TimeoutError")

    async with listening(that_answers(b"+PONG")) as port:
        config = PoolConfig(url=f"postgresql://u@127.0.0.1:{port}/d", application_name="t")
        with pytest.raises(Refused, match="speaks Redis, not PostgreSQL"):
            await config.until_available(fail, None)
