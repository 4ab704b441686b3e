"""Faults of Redis, and of the way to it."""

import asyncio
import random
import signal

from worker.drill.arena import Arena
from worker.drill.faults.breaking import AWAY_S, LONG_S, SHORT_S, Fault, away, cut_often, frozen, pause


async def _redis_crash(arena: Arena, _chance: random.Random) -> None:
    await away(arena, arena.redis_server, signal.SIGKILL)


async def _redis_away(arena: Arena, _chance: random.Random) -> None:
    await away(arena, arena.redis_server, signal.SIGKILL, AWAY_S)


async def _redis_stopped(arena: Arena, _chance: random.Random) -> None:
    await pause(await arena.server_pid(arena.redis_server), LONG_S)


async def _redis_cut(arena: Arena, chance: random.Random) -> None:
    await cut_often([worker.redis for worker in arena.workers], chance)


async def _redis_frozen(arena: Arena, _chance: random.Random) -> None:
    async with frozen([worker.redis for worker in arena.workers]):
        await asyncio.sleep(AWAY_S)


async def _redis_read_only(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "CONFIG", "SET", "replica-serve-stale-data", "yes")
    await _command(arena, "REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(SHORT_S)
    await _command(arena, "REPLICAOF", "NO", "ONE")


async def _redis_full(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(SHORT_S)
    await _command(arena, "CONFIG", "SET", "maxmemory", "0")


async def _redis_scripts_lost(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "SCRIPT", "FLUSH")


async def _redis_flushed(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "FLUSHALL")


async def _command(arena: Arena, *words: str) -> None:
    await arena.redis.execute_command(*words)


FAULTS = (
    Fault(
        "redis-crash",
        "Redis is killed and started again from its append-only file.",
        _redis_crash,
        needs_own_servers=True,
    ),
    Fault("redis-away", "Redis is killed, stays away, and comes back.", _redis_away, needs_own_servers=True),
    Fault(
        "redis-stopped",
        "Redis answers nobody for longer than a lease, and then goes on as if nothing had been.",
        _redis_stopped,
        needs_own_servers=True,
    ),
    Fault("redis-cut", "The connections to Redis are cut, again and again, at any point.", _redis_cut),
    Fault("redis-frozen", "The way to Redis swallows everything, and no connection is told.", _redis_frozen),
    Fault(
        "redis-read-only",
        "Redis becomes a replica that refuses writes, and a master again.",
        _redis_read_only,
        needs_own_servers=True,
    ),
    Fault(
        "redis-full",
        "Redis has no memory left and refuses whatever would need some.",
        _redis_full,
        needs_own_servers=True,
    ),
    Fault("redis-scripts-lost", "Redis forgets its scripts.", _redis_scripts_lost, needs_own_servers=True),
    Fault(
        "redis-flushed",
        "Redis loses everything that it has: queue, leases, results.",
        _redis_flushed,
        needs_own_servers=True,
        loses_queue=True,
    ),
)
