"""Checkouts: however one ends, its place and its connection are free again, and it is counted once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Conflict, DataFault, Unavailable
from tidepool.pool.pool import Pool


@pytest.fixture
async def pair(database: PoolConfig) -> AsyncIterator[Pool]:
    """Give an open pool of two, without any connection yet."""
    pool = await Pool.open(replace(database, min_size=0, max_size=2))
    yield pool
    await pool.close()


async def assert_all_free(pool: Pool) -> None:
    """Nobody has a connection, as many as before can be checked out at a time, and not one more."""
    assert (0, 0, []) == (pool.stats.in_use, pool.stats.waiting, pool.holders())
    async with AsyncExitStack() as uses:
        for _ in range(pool.limit):
            await uses.enter_async_context(pool.acquire())
        assert not pool._gate.try_enter()


def counted(pool: Pool) -> tuple[int, int, int, int]:
    """Return how many checkouts were asked for, given, broken off by an error and given up."""
    stats = pool.stats
    return stats.acquire_requests, stats.acquire_ok, stats.acquire_errors, stats.acquire_cancelled


async def use(pool: Pool, inside: Callable[[], Awaitable[object]]) -> None:
    """Do something with a connection that is checked out."""
    async with pool.acquire():
        await inside()


async def nothing() -> None:
    """Do nothing."""


async def cancelled(task: "asyncio.Task[Any]") -> bool:
    """Cancel a task, and return whether that is how it ended."""
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


class Stop:
    """A function to be called instead of another: tells that it was reached, and goes on when it may."""

    def __init__(self) -> None:
        self.reached, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, *_: Any, **__: Any) -> None:
        """Stop here."""
        self.reached.set()
        await self.may_go_on.wait()


async def test_a_holder_is_a_task_with_its_stack(pair: Pool) -> None:
    """From which one sees where it is now; the name is the task's."""
    inside = Stop()
    task = asyncio.create_task(use(pair, inside), name="ada")
    await inside.reached.wait()
    (holder,) = pair.holders()
    assert holder.task is task
    assert holder.task.get_stack()
    assert "ada" == holder.task_name
    assert holder.where.startswith("use:")
    inside.may_go_on.set()
    await task
    await assert_all_free(pair)


async def test_a_holder_is_named_where_the_pools_own_functions_were_called(pair: Pool) -> None:
    """In a transaction, and by an exit stack."""
    async with AsyncExitStack() as uses:
        await uses.enter_async_context(pair.acquire())
        await uses.enter_async_context(pair.transaction())
        this_test = "test_a_holder_is_named_where_the_pools_own_functions_were_called"
        assert [this_test] * 2 == [holder.where.rpartition(":")[0] for holder in pair.holders()]


@pytest.mark.parametrize(
    ("raised", "comes_out"),
    [
        (asyncpg.DeadlockDetectedError("x"), Conflict),
        (asyncpg.UniqueViolationError("x"), DataFault),
        (ConnectionResetError("x"), Unavailable),
        (KeyError("x"), KeyError),
        (StopAsyncIteration("x"), StopAsyncIteration),
    ],
    ids=lambda value: (value if isinstance(value, type) else type(value)).__name__,
)
async def test_what_a_block_raises_comes_out_as_a_fault(
    pair: Pool, raised: Exception, comes_out: type[Exception]
) -> None:
    """With the driver's error as its cause, unless its text has data; other errors are raised unchanged."""
    with pytest.raises(comes_out) as caught:
        async with pair.acquire():
            raise raised
    assert (raised in (caught.value, caught.value.__cause__)) == (comes_out is not DataFault)
    assert (1, 1, 0, 0) == counted(pair)
    await assert_all_free(pair)


async def test_an_error_of_opening_a_connection_gives_the_place_back(
    pair: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as it happens."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr("asyncpg.connect", refuse)
        for _ in range(5):
            with pytest.raises(Unavailable, match="ConnectionRefusedError"):
                await use(pair, nothing)
    assert (5, 0, 5, 0) == counted(pair)
    await assert_all_free(pair)


async def test_cancelled_while_it_waits_for_its_turn(pair: Pool) -> None:
    """It has no place to give back."""
    async with pair.acquire(), pair.acquire():
        waiter = asyncio.create_task(use(pair, nothing))
        await asyncio.sleep(0)
        assert 1 == pair.stats.waiting
        assert await cancelled(waiter)
    assert (3, 2, 0, 1) == counted(pair)
    await assert_all_free(pair)


async def test_cancelled_while_its_connection_is_opened(pair: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is free at once."""
    connecting = Stop()
    with monkeypatch.context() as patch:
        patch.setattr("asyncpg.connect", connecting)
        task = asyncio.create_task(use(pair, nothing))
        await connecting.reached.wait()
        assert await cancelled(task)
    assert (1, 0, 0, 0) == counted(pair)
    await assert_all_free(pair)


async def test_cancelled_in_the_block(pair: Pool) -> None:
    """Also while a statement runs, which the server is asked to cancel."""
    inside = Stop()
    task = asyncio.create_task(use(pair, inside))
    await inside.reached.wait()
    assert await cancelled(task)
    with pytest.raises(Unavailable):
        async with pair.acquire() as connection, asyncio.timeout(0):
            await connection.execute("SELECT pg_sleep(100)")
    assert (2, 2, 0, 0) == counted(pair)
    assert 2 == sum(pair.stats.hold_hist)
    await assert_all_free(pair)


@pytest.fixture
def returning(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """Give a stop at which every connection that is given back arrives."""
    stop = Stop()
    monkeypatch.setattr("tidepool.pool.config._nothing_to_reset", stop)
    return stop


async def test_cancelled_while_it_gives_its_connection_back(returning: Stop, database: PoolConfig) -> None:
    """The connection comes back all the same; the checkout had ended before."""
    pool = await Pool.open(replace(database, max_size=2))
    task = asyncio.create_task(use(pool, nothing))
    await returning.reached.wait()
    assert await cancelled(task)
    assert (1, 1, 0, 0) == counted(pool)
    returning.may_go_on.set()
    await assert_all_free(pool)
    await pool.close()


async def test_giving_back_is_bounded(returning: Stop, database: PoolConfig) -> None:
    """By the command timeout: a server that answers no more costs its connection, not the place."""
    pool = await Pool.open(replace(database, max_size=2, command_timeout_s=0.05))
    with pytest.raises(Unavailable, match="TimeoutError"):
        await use(pool, nothing)
    returning.may_go_on.set()
    await assert_all_free(pool)
    assert (3, 3, 1) == (pool.stats.acquire_requests, pool.stats.acquire_ok, pool.stats.connections_closed)
    await pool.close()


async def test_an_error_of_giving_back_comes_out_as_a_fault(returning: Stop, database: PoolConfig) -> None:
    """Instead of the block's own, which stays its context."""
    pool = await Pool.open(replace(database, max_size=1, command_timeout_s=0.05))
    with pytest.raises(Unavailable) as caught:
        async with pool.acquire():
            raise KeyError
    assert isinstance(caught.value.__cause__, TimeoutError)
    returning.may_go_on.set()
    await assert_all_free(pool)
    await pool.close()
