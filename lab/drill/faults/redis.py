"""Faults of Redis, and of the network between it and the workers."""

import asyncio
import math
import random
import signal

from lab.bench.servers import QUEUE
from lab.drill.arena import Arena
from lab.drill.faults.breaking import AWAY_S, LONG_S, SHORT_S, Fault, away, cut_often, freeze, pause
from tidepool.queue.connection import RedisClient
from tidepool.queue.wire import ABORTS, QueueKeys

_BIG_JOBS, _ODD_ROUNDS = 40, 10
_KEYS = QueueKeys(QUEUE)
_READ_KEYS = (ABORTS, _KEYS.owners, _KEYS.lapses, _KEYS.suspects)
"""The Redis keys that every worker reads, except the queue, which must contain the jobs of the load only."""


async def _redis_crash(arena: Arena, _chance: random.Random) -> None:
    await away(arena, arena.redis_server, signal.SIGKILL)


async def _redis_away(arena: Arena, _chance: random.Random) -> None:
    await away(arena, arena.redis_server, signal.SIGKILL, AWAY_S)


async def _redis_stopped(arena: Arena, _chance: random.Random) -> None:
    await pause(await arena.server_pid(arena.redis_server), LONG_S)


async def _redis_cut(arena: Arena, chance: random.Random) -> None:
    await cut_often([worker.redis for worker in arena.workers], chance)


async def _redis_frozen(arena: Arena, _chance: random.Random) -> None:
    await freeze([worker.redis for worker in arena.workers], AWAY_S)


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


async def _odd_values(arena: Arena, chance: random.Random) -> None:
    """Write random bytes into keys that workers read, and for moments replace keys by values of another type.

    The original values are moved aside, and put back.
    """
    redis = arena.redis
    for _ in range(_ODD_ROUNDS):
        members = [(key, chance.randbytes(chance.randrange(1, 40))) for key in _READ_KEYS]
        for key, member in members:
            await _add(redis, key, member, chance)
        planted = chance.sample(_READ_KEYS, k=2)
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        for key in planted:
            await _replace(redis, key, chance)
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        for key in planted:
            await _put_back(redis, key)
        for key, member in members:
            await _remove(redis, key, member)


async def _add(redis: RedisClient, key: str, member: bytes, chance: random.Random) -> None:
    """Add a member to the hash or sorted set at *key* that the service would not write."""
    if key == _KEYS.lapses:
        await redis.execute_command("HSET", key, member, chance.randbytes(8))
    else:
        await redis.zadd(key, {member: chance.choice((0.0, -1.0, 1.5, 1e300, math.inf))})


async def _remove(redis: RedisClient, key: str, member: bytes) -> None:
    await redis.execute_command("HDEL" if key == _KEYS.lapses else "ZREM", key, member)


async def _replace(redis: RedisClient, key: str, chance: random.Random) -> None:
    """Rename *key*, and store a value of a random type in its place, in one step: workers write to it meanwhile."""
    junk = chance.randbytes(20)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.rename(key, f"{key}:aside")  # an error if it is not there
        pipe.execute_command(*chance.choice((("SET", key), ("RPUSH", key), ("SADD", key), ("HSET", key, junk))), junk)
        _, planted = await pipe.execute(raise_on_error=False)
    if isinstance(planted, Exception):
        raise planted


async def _put_back(redis: RedisClient, key: str) -> None:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.delete(key)
        pipe.rename(f"{key}:aside", key)
        await pipe.execute(raise_on_error=False)  # an error if nothing was moved aside


async def _big_payloads(arena: Arena, _chance: random.Random) -> None:
    """Make the next 40 jobs of the load nearly as large as a job may be (1 MiB), and wait until they are applied."""
    assert arena.log is not None
    log = arena.log
    log.big = _BIG_JOBS

    async def are_written() -> bool:
        return not log.big

    await arena.until(are_written)
    await arena.until(lambda: _applied_big(arena))


async def _applied_big(arena: Arena) -> bool:
    """Return whether all big products of all bursts so far are in the database."""
    count = (await arena.fetch("SELECT count(*) FROM products WHERE length(description) > 900000"))[0][0]
    return count > 0 and count % _BIG_JOBS == 0


async def _command(arena: Arena, *words: str) -> None:
    await arena.redis.execute_command(*words)


FAULTS = (
    Fault(
        "odd-values",
        "Keys that workers read get members of random bytes, and for moments values of another type.",
        _odd_values,
        needs_own_servers=True,
    ),
    Fault("big-payloads", "Forty jobs in a row are nearly as large as a job may be: 1 MiB each.", _big_payloads),
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
    Fault("redis-frozen", "The network to Redis loses everything, and closes no connection.", _redis_frozen),
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
