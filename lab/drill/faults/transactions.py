"""Faults that concern transactions: locks, deadlocks, serialization failures, and a statement that hangs."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import LiteralString

import asyncpg

from lab.bench.servers import connect
from lab.drill.arena import Arena
from lab.drill.faults.breaking import AWAY_S, SHORT_S, Fault
from tidepool.pool.connection import Connection

_DEADLOCKS = 5
_CROSSED = (
    "SELECT EXISTS (SELECT FROM pg_locks AS wants JOIN pg_locks AS has USING (pid)"
    " WHERE NOT wants.granted AND wants.relation = 'public.job_results'::regclass"
    " AND has.granted AND has.relation = 'public.users'::regclass AND has.mode IN ('RowShareLock', 'RowExclusiveLock'))"
)
_HANGING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


async def _locked(arena: Arena, _chance: random.Random) -> None:
    connection = await connect(arena.urls.database)
    async with connection.transaction():
        await connection.execute("LOCK TABLE public.users IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(SHORT_S)
    await connection.close()


async def _deadlock(arena: Arena, chance: random.Random) -> None:
    """Cause five deadlocks with workers, by locking two tables in the opposite order.

    Workers write the table users first and the ledger last. The fault locks the ledger, waits until a worker that has
    locked users waits for it, and then locks users.
    """
    connection = await connect(arena.urls.database)
    try:
        for _ in range(_DEADLOCKS):
            await _cross(arena, connection)
            await asyncio.sleep(chance.uniform(0.1, 0.5))
    finally:
        await connection.close()


async def _cross(arena: Arena, connection: Connection) -> None:
    async def is_crossed() -> bool:
        return await connection.fetchval(_CROSSED)

    with suppress(asyncpg.DeadlockDetectedError):  # as a rule PostgreSQL ends the worker, which has waited longer
        async with connection.transaction():
            await connection.execute("LOCK TABLE public.job_results IN SHARE MODE")
            await arena.until(is_crossed)
            await connection.execute("LOCK TABLE public.users IN EXCLUSIVE MODE")


async def _conflicts(arena: Arena, _chance: random.Random) -> None:
    body = "IF random() < 0.1 THEN RAISE EXCEPTION 'drill' USING ERRCODE = '40001'; END IF; RETURN NULL;"
    async with _trigger(arena, body, "AFTER INSERT ON public.users FOR EACH STATEMENT"):
        await asyncio.sleep(AWAY_S)


async def _statement_timeout(arena: Arena, _chance: random.Random) -> None:
    """Make the insert of one user, the twentieth from now on, hang until PostgreSQL's statement timeout cancels it."""
    await arena.fetch("CREATE SEQUENCE IF NOT EXISTS public.drill_rows")
    body = "IF nextval('public.drill_rows') = 20 THEN PERFORM pg_sleep(60); END IF; RETURN NEW;"
    async with _trigger(arena, body, "BEFORE INSERT ON public.users FOR EACH ROW"):
        await arena.until(lambda: _hangs(arena, 1))
        await arena.until(lambda: _hangs(arena, 0))
    await arena.fetch("DROP SEQUENCE public.drill_rows")


async def _hangs(arena: Arena, count: int) -> bool:
    return (await arena.fetch(_HANGING))[0][0] == count


@asynccontextmanager
async def _trigger(arena: Arena, body: LiteralString, when: LiteralString) -> AsyncGenerator[None]:
    """Create a trigger on the table users with the PL/pgSQL statements *body*, and drop it at the end of the block."""
    await arena.fetch(
        f"CREATE OR REPLACE FUNCTION public.drill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    )
    await arena.fetch(f"CREATE TRIGGER drill {when} EXECUTE FUNCTION public.drill()")
    try:
        yield
    finally:
        await arena.fetch("DROP TRIGGER drill ON public.users")
        await arena.fetch("DROP FUNCTION public.drill()")


FAULTS = (
    Fault("locked", "Somebody keeps a table locked for a few seconds.", _locked),
    Fault("deadlock", "Somebody takes the tables in the other order: five deadlocks, one after the other.", _deadlock),
    Fault("conflicts", "One transaction in ten that inserts users fails with a serialization failure.", _conflicts),
    Fault("statement-timeout", "The insert of one row hangs until its statement's time is up.", _statement_timeout),
)
