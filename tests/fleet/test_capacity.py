"""What the server can give, as it says itself."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from fleet import a_capacity

from tidepool.fleet.capacity import Capacity
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Unavailable
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection


@pytest.fixture
async def side(database: PoolConfig) -> AsyncIterator[SideConnection]:
    """Give the connection of a worker beside its pool."""
    side = SideConnection(replace(database, application_name="tidepool:w1"), "stats")
    yield side
    await side.close()


@pytest.fixture
async def ordinary(database: PoolConfig, connection: Any) -> AsyncIterator[PoolConfig]:
    """Give the test's database as a role sees it that may do nothing special."""
    await connection.execute("CREATE ROLE ordinary LOGIN CONNECTION LIMIT 7")
    parts = urlsplit(database.url)
    yield replace(database, url=parts._replace(netloc=f"ordinary@{parts.netloc.rpartition('@')[2]}").geturl())
    await connection.execute("DROP ROLE ordinary")


async def test_a_reading_has_the_limits_and_who_is_there(
    database: PoolConfig, connection: Any, side: SideConnection
) -> None:
    """The worker's two names count for it; other tests' connections are other databases'."""
    pool = await Pool.open(replace(database, application_name="tidepool:w1", min_size=2))
    reading = await Capacity.read(side)
    settings = ("max_connections", "superuser_reserved_connections", "reserved_connections")
    most, *reserved = [int(await connection.fetchval("SELECT current_setting($1)", name)) for name in settings]
    assert (most, sum(reserved)) == (reading.max_connections, reading.reserved)
    assert (-1, -1) == (reading.role_limit, reading.database_limit)
    assert {"w1": 3} == reading.by_worker
    assert 1 == reading.others_of_database, "the test's own connection"
    assert 1 <= reading.others - reading.others_of_database
    await pool.close()
    assert {"w1": 1} == (await Capacity.read(side)).by_worker


async def test_limits_of_role_and_database_are_read(
    connection: Any, side: SideConnection, database: PoolConfig
) -> None:
    """A limit that an operator has set is kept."""
    await connection.execute(f"ALTER DATABASE {urlsplit(database.url).path[1:]} CONNECTION LIMIT 50")
    assert 50 == (await Capacity.read(side)).database_limit


async def test_an_ordinary_role_sees_everybody(ordinary: PoolConfig, connection: Any) -> None:
    """It cannot see the kind of others' backends, and must count them all the same."""
    side = SideConnection(ordinary, "stats")
    reading = await Capacity.read(side)
    assert 7 == reading.role_limit
    assert (1, 2) == (reading.others_of_role, reading.others_of_database), "its own connection, and the test's"
    visible = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    assert await connection.fetchval(visible) == reading.others + sum(reading.by_worker.values())
    await side.close()


def test_the_room_is_the_least_of_the_limits_less_whom_each_counts() -> None:
    """The server counts all, a role its own, a database its own; what is a worker's is left to the budget."""
    reading = replace(a_capacity(100, {"w1": 5}, others=15), reserved=5, others_of_role=2, others_of_database=3)
    assert 100 - 5 - 15 - 5 == reading.room(margin=5)
    assert 30 - 2 == replace(reading, role_limit=30).room(margin=0)
    assert 20 - 3 == replace(reading, role_limit=30, database_limit=20).room(margin=0)


async def test_workers_are_distinguished_by_their_whole_names(database: PoolConfig) -> None:
    """Names are cut at 63 bytes; the longest of a worker fits."""
    host_pid_random = f"{'h' * 30}-4194304-abcd"
    side = SideConnection(replace(database, application_name=f"tidepool:{host_pid_random}"), "migrate")
    assert {host_pid_random: 1} == (await Capacity.read(side)).by_worker
    await side.close()


async def test_a_server_that_is_away_is_unavailable() -> None:
    """The reading raises the same error as any other query."""
    side = SideConnection(PoolConfig(url="postgresql://postgres@/x?host=/nowhere", application_name="x"), "stats")
    with pytest.raises(Unavailable):
        await Capacity.read(side)


async def test_limits_count_the_role_that_logged_in(database: PoolConfig, connection: Any) -> None:
    """Also where a setting makes it act as another one, whose rights it does not inherit."""
    parts = urlsplit(database.url)
    url = parts._replace(netloc=f"logs_in@{parts.netloc.rpartition('@')[2]}").geturl()
    await connection.execute(
        "CREATE ROLE acts; CREATE ROLE logs_in LOGIN NOINHERIT CONNECTION LIMIT 7; GRANT acts TO logs_in;"
        " ALTER ROLE logs_in SET role = acts"
    )
    side = SideConnection(replace(database, url=url, application_name="tidepool:w1"), "stats")
    reading = await Capacity.read(side)
    await side.close()
    await connection.execute("DROP ROLE logs_in; DROP ROLE acts")
    assert (7, {"w1": 1}) == (reading.role_limit, reading.by_worker)
