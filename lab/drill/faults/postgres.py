"""Faults of PostgreSQL, and of the network between it and the workers."""

import asyncio
import random
import signal
from typing import LiteralString

import asyncpg

from lab.bench.servers import connect
from lab.drill.arena import Arena
from lab.drill.faults.breaking import AWAY_S, LONG_S, SHORT_S, Fault, away, cut_often, delayed, freeze
from tidepool.pool.connection import DirectConnection

_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tidepool:%'"


async def _backends(arena: Arena, chance: random.Random) -> None:
    for _ in range(20):
        pids = await arena.fetch(_SESSIONS)
        if pids:
            await arena.fetch("SELECT pg_terminate_backend($1)", chance.choice(pids)[0])
        await asyncio.sleep(chance.uniform(0.1, 1.0))


async def _postgres_crash(arena: Arena, _chance: random.Random) -> None:
    await away(arena, arena.postgres, signal.SIGQUIT)


async def _postgres_away(arena: Arena, _chance: random.Random) -> None:
    await away(arena, arena.postgres, signal.SIGINT, AWAY_S)


async def _postgres_restarts(arena: Arena, chance: random.Random) -> None:
    for _ in range(4):
        await away(arena, arena.postgres, signal.SIGQUIT)
        await asyncio.sleep(chance.uniform(1.0, AWAY_S))


async def _postgres_full(arena: Arena, _chance: random.Random) -> None:
    others: list[DirectConnection] = []
    await arena.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidepool:%'")
    try:
        while True:
            others.append(await connect(arena.urls.database))
    except asyncpg.TooManyConnectionsError:
        await asyncio.sleep(SHORT_S)
    finally:
        for other in others:
            other.terminate()


async def _postgres_read_only(arena: Arena, _chance: random.Random) -> None:
    await _set_read_only(arena, "on")
    await asyncio.sleep(SHORT_S)
    await _set_read_only(arena, "off")


async def _commit_reply_lost(arena: Arena, chance: random.Random) -> None:
    await _lose_commits(arena, chance, passes_on=True)


async def _commit_lost(arena: Arena, chance: random.Random) -> None:
    await _lose_commits(arena, chance, passes_on=False)


async def _postgres_frozen(arena: Arena, _chance: random.Random) -> None:
    await freeze([worker.postgres for worker in arena.workers], AWAY_S)


async def _postgres_cut(arena: Arena, chance: random.Random) -> None:
    await cut_often([worker.postgres for worker in arena.workers], chance)


async def _postgres_slow(arena: Arena, _chance: random.Random) -> None:
    await delayed([worker.postgres for worker in arena.workers], 0.05)


async def _lose_commits(arena: Arena, chance: random.Random, *, passes_on: bool) -> None:
    lost = asyncio.Semaphore(0)
    for _ in range(arena.shots):
        chance.choice(arena.workers).postgres.trap(b"COMMIT", passes_on=passes_on, bite=lost.release)
    try:
        async with asyncio.timeout(LONG_S + arena.shots):
            for _ in range(arena.shots):
                await lost.acquire()
    finally:
        for worker in arena.workers:
            worker.postgres.disarm()


async def _set_read_only(arena: Arena, value: LiteralString) -> None:
    await arena.fetch(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await arena.fetch("SELECT pg_reload_conf()")


FAULTS = (
    Fault("backends", "A session of a worker is ended by the server, twenty times, one to ten a second.", _backends),
    Fault(
        "postgres-crash",
        "PostgreSQL ends at once, as in a crash, and is started again: it replays its log.",
        _postgres_crash,
        needs_own_servers=True,
    ),
    Fault("postgres-restarts", "The same four times, every few seconds.", _postgres_restarts, needs_own_servers=True),
    Fault(
        "postgres-away", "PostgreSQL is stopped, stays away, and comes back.", _postgres_away, needs_own_servers=True
    ),
    Fault(
        "postgres-full",
        "Others take every connection that PostgreSQL has, just after the workers' have been ended.",
        _postgres_full,
        needs_own_servers=True,
    ),
    Fault(
        "postgres-read-only",
        "Transactions become read-only, as after a failover to a standby, and writable again.",
        _postgres_read_only,
        needs_own_servers=True,
    ),
    Fault(
        "commit-reply-lost",
        "COMMITs are carried out, and their answers are lost with the connection.",
        _commit_reply_lost,
        is_burst=True,
    ),
    Fault("commit-lost", "COMMITs never arrive, and the connection is lost.", _commit_lost, is_burst=True),
    Fault(
        "postgres-frozen",
        "The network to PostgreSQL loses everything, and closes no connection.",
        _postgres_frozen,
    ),
    Fault("postgres-cut", "The connections to PostgreSQL are cut, again and again, at any point.", _postgres_cut),
    Fault("postgres-slow", "Everything takes 50 ms longer to PostgreSQL and back.", _postgres_slow),
)
