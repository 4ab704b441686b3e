"""The faults: each breaks one thing, waits, and mends it; the run before and after it is none of its business."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from worker.drill.arena import Arena, Worker
from worker.drill.proxy import Proxy
from worker.engine.leases import script

Inject = Callable[[Arena, random.Random], Awaitable[list[str] | None]]

_SHORT_S, _AWAY_S, _LONG_S = 3.0, 6.0, 15.0
"""Shorter than the lease of ten seconds; shorter, but longer than any patience of a connection; longer."""
_SHOTS = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break things. `inject` returns when it is mended; with jobs, where recovery is that these end."""

    name: str
    words: str
    inject: Inject
    loses_queue: bool = False
    """Whether jobs that are in Redis only are gone by it: reported by id, and enqueued again."""


FAULTS: dict[str, Fault] = {}


def _fault(name: str, words: str, *, loses_queue: bool = False) -> Callable[[Inject], Inject]:
    def add(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name, words, inject, loses_queue)
        return inject

    return add


# ---------------------------------------------------------------- workers


@_fault("kill", "A worker is killed, and nobody tells: its leases have to end.")
async def _kill(arena: Arena, chance: random.Random) -> list[str]:
    worker, held = await _at_work(arena, chance)
    worker.signal(signal.SIGKILL)
    return held


@_fault("kill-supervised", "A worker is killed, and its parent gives its jobs back, as `--workers` does.")
async def _kill_supervised(arena: Arena, chance: random.Random) -> list[str]:
    worker, held = await _at_work(arena, chance)
    pid = worker.pid
    worker.signal(signal.SIGKILL)
    await arena.bury(pid)
    return held


@_fault("kill-before-commit", "A worker is killed at the very moment when it sends COMMIT, which does not arrive.")
async def _kill_before_commit(arena: Arena, chance: random.Random) -> None:
    await _crash_at(arena, chance, "postgres", b"COMMIT", passes_on=False)


@_fault("kill-after-commit", "A worker is killed when its COMMIT has gone out, before it can acknowledge anything.")
async def _kill_after_commit(arena: Arena, chance: random.Random) -> None:
    await _crash_at(arena, chance, "postgres", b"COMMIT", passes_on=True)


@_fault(
    "kill-before-finish",
    "A worker is killed as it acknowledges committed jobs, and Redis never hears of it.",
)
async def _kill_before_finish(arena: Arena, chance: random.Random) -> None:
    await _crash_at(arena, chance, "redis", await _finish_script(arena), passes_on=False)


@_fault("kill-after-finish", "A worker is killed when its acknowledgement has gone out.")
async def _kill_after_finish(arena: Arena, chance: random.Random) -> None:
    await _crash_at(arena, chance, "redis", await _finish_script(arena), passes_on=True)


@_fault("pause-short", "A worker is stopped for less than its lease.")
async def _pause_short(arena: Arena, chance: random.Random) -> None:
    await _pause(chance.choice(arena.workers).pid, _SHORT_S)


@_fault("pause-long", "A worker is stopped for longer than its lease; others do its jobs meanwhile.")
async def _pause_long(arena: Arena, chance: random.Random) -> None:
    await _pause(chance.choice(arena.workers).pid, _LONG_S)


@_fault("stop-twice", "A worker is told to stop in the middle of a batch, and once more at once.")
async def _stop_twice(arena: Arena, chance: random.Random) -> None:
    worker, _ = await _at_work(arena, chance)
    process = worker.process
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)
    await asyncio.sleep(0.1)
    worker.signal(signal.SIGTERM)
    await arena.until(lambda: _is_another(worker, process))


@_fault("rolling-restart", "All workers are restarted under load, one after the other.")
async def _rolling_restart(arena: Arena, _chance: random.Random) -> None:
    for worker in arena.workers:
        process = worker.process
        worker.signal(signal.SIGTERM)
        await arena.until(lambda worker=worker, process=process: _is_another(worker, process))
        await asyncio.sleep(1)


# ---------------------------------------------------------------- PostgreSQL


@_fault("backends", "A session of a worker is ended by the server, five times a second for six seconds.")
async def _backends(arena: Arena, chance: random.Random) -> None:
    for _ in range(30):
        pids = await arena.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tidepool:%'")
        if pids:
            await arena.fetch("SELECT pg_terminate_backend($1)", chance.choice(pids)[0])
        await asyncio.sleep(0.2)


@_fault("postgres-crash", "PostgreSQL ends at once, as in a crash, and is started again: it replays its log.")
async def _postgres_crash(arena: Arena, _chance: random.Random) -> None:
    await arena.stop_server(arena.postgres, signal.SIGQUIT)
    await arena.start_server(arena.postgres)


@_fault("postgres-away", "PostgreSQL is stopped, stays away, and comes back.")
async def _postgres_away(arena: Arena, _chance: random.Random) -> None:
    await arena.stop_server(arena.postgres, signal.SIGINT)
    await asyncio.sleep(_AWAY_S)
    await arena.start_server(arena.postgres)


@_fault("postgres-full", "Others take every connection that PostgreSQL has, just after the workers' have been ended.")
async def _postgres_full(arena: Arena, _chance: random.Random) -> None:
    others: list[Any] = []
    await arena.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidepool:%'")
    try:
        while True:
            others.append(await asyncpg.connect(arena.urls.database))
    except asyncpg.TooManyConnectionsError:
        await asyncio.sleep(_SHORT_S)
    finally:
        for other in others:
            other.terminate()


@_fault("postgres-read-only", "Transactions become read-only, as after a failover to a standby, and writable again.")
async def _postgres_read_only(arena: Arena, _chance: random.Random) -> None:
    await _set_read_only(arena, "on")
    await asyncio.sleep(_SHORT_S)
    await _set_read_only(arena, "off")


@_fault("locked", "Somebody keeps a table locked for longer than a transaction waits for a lock, or nearly.")
async def _locked(arena: Arena, _chance: random.Random) -> None:
    connection: Any = await asyncpg.connect(arena.urls.database)
    async with connection.transaction():
        await connection.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(_SHORT_S)
    await connection.close()


@_fault("conflicts", "One transaction in ten that inserts users fails with a serialization failure.")
async def _conflicts(arena: Arena, _chance: random.Random) -> None:
    await arena.fetch(
        "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF random() < 0.1 THEN RAISE EXCEPTION 'drill' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$"
    )
    await arena.fetch("CREATE TRIGGER conflict AFTER INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION conflict()")
    await asyncio.sleep(_AWAY_S)
    await arena.fetch("DROP TRIGGER conflict ON users")
    await arena.fetch("DROP FUNCTION conflict()")


@_fault("commit-reply-lost", "Twenty COMMITs are carried out, and their answers are lost with the connection.")
async def _commit_reply_lost(arena: Arena, chance: random.Random) -> None:
    await _lose_commits(arena, chance, passes_on=True)


@_fault("commit-lost", "Twenty COMMITs never arrive, and the connection is lost.")
async def _commit_lost(arena: Arena, chance: random.Random) -> None:
    await _lose_commits(arena, chance, passes_on=False)


@_fault("postgres-frozen", "The way to PostgreSQL swallows everything, and no connection is told.")
async def _postgres_frozen(arena: Arena, _chance: random.Random) -> None:
    async with _frozen([worker.postgres for worker in arena.workers]):
        await asyncio.sleep(_AWAY_S)


@_fault("postgres-cut", "The connections to PostgreSQL are cut, again and again, at any point.")
async def _postgres_cut(arena: Arena, chance: random.Random) -> None:
    await _cut_often([worker.postgres for worker in arena.workers], chance)


@_fault("postgres-slow", "Everything takes 50 ms longer to PostgreSQL and back.")
async def _postgres_slow(arena: Arena, _chance: random.Random) -> None:
    await _delayed([worker.postgres for worker in arena.workers], 0.05)


# ---------------------------------------------------------------- Redis


@_fault("redis-crash", "Redis is killed and started again from its append-only file.")
async def _redis_crash(arena: Arena, _chance: random.Random) -> None:
    await arena.stop_server(arena.redis_server, signal.SIGKILL)
    await arena.start_server(arena.redis_server)


@_fault("redis-away", "Redis is killed, stays away, and comes back.")
async def _redis_away(arena: Arena, _chance: random.Random) -> None:
    await arena.stop_server(arena.redis_server, signal.SIGKILL)
    await asyncio.sleep(_AWAY_S)
    await arena.start_server(arena.redis_server)


@_fault("redis-stopped", "Redis answers nobody for longer than a lease, and then goes on as if nothing had been.")
async def _redis_stopped(arena: Arena, _chance: random.Random) -> None:
    await _pause(await arena.server_pid(arena.redis_server), _LONG_S)


@_fault("redis-cut", "The connections to Redis are cut, again and again, at any point.")
async def _redis_cut(arena: Arena, chance: random.Random) -> None:
    await _cut_often([worker.redis for worker in arena.workers], chance)


@_fault("redis-frozen", "The way to Redis swallows everything, and no connection is told.")
async def _redis_frozen(arena: Arena, _chance: random.Random) -> None:
    async with _frozen([worker.redis for worker in arena.workers]):
        await asyncio.sleep(_AWAY_S)


@_fault("redis-read-only", "Redis becomes a replica that refuses writes, and a master again.")
async def _redis_read_only(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "CONFIG", "SET", "replica-serve-stale-data", "yes")
    await _command(arena, "REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(_SHORT_S)
    await _command(arena, "REPLICAOF", "NO", "ONE")


@_fault("redis-full", "Redis has no memory left and refuses whatever would need some.")
async def _redis_full(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(_SHORT_S)
    await _command(arena, "CONFIG", "SET", "maxmemory", "0")


@_fault("redis-scripts-lost", "Redis forgets its scripts.")
async def _redis_scripts_lost(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "SCRIPT", "FLUSH")


@_fault("redis-flushed", "Redis loses everything that it has: queue, leases, results.", loses_queue=True)
async def _redis_flushed(arena: Arena, _chance: random.Random) -> None:
    await _command(arena, "FLUSHALL")


# ---------------------------------------------------------------- how


async def _at_work(arena: Arena, chance: random.Random) -> tuple[Worker, list[str]]:
    """Stop a worker in the middle of its work, and return it with the jobs that it holds."""
    while True:
        worker = chance.choice(arena.workers)
        worker.signal(signal.SIGSTOP)
        if held := await arena.held_by(worker):
            return worker, held
        worker.signal(signal.SIGCONT)
        await asyncio.sleep(chance.uniform(0.001, 0.02))


async def _pause(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


async def _is_another(worker: Worker, process: Any) -> bool:
    return worker.process is not process


async def _crash_at(arena: Arena, chance: random.Random, server: str, words: bytes, *, passes_on: bool) -> None:
    """Kill a worker at its next request with *words*, and give its jobs back, as its parent does."""
    worker = chance.choice(arena.workers)
    proxy: Proxy = getattr(worker, server)
    pid, process, crashed = worker.pid, worker.process, asyncio.Event()

    def crash() -> None:
        worker.signal(signal.SIGKILL)
        crashed.set()

    proxy.trap(words, passes_on=passes_on, bite=crash)
    try:
        async with asyncio.timeout(_LONG_S):
            await crashed.wait()
    finally:
        proxy.disarm()
    await arena.until(lambda: _is_another(worker, process))
    await arena.bury(pid)


async def _finish_script(arena: Arena) -> bytes:
    """Return what a call of the script that acknowledges jobs has in it: its digest."""
    return (await arena.redis.script_load(script("finish"))).encode()


async def _lose_commits(arena: Arena, chance: random.Random, *, passes_on: bool) -> None:
    lost = asyncio.Semaphore(0)
    for _ in range(_SHOTS):
        chance.choice(arena.workers).postgres.trap(b"COMMIT", passes_on=passes_on, bite=lost.release)
    try:
        async with asyncio.timeout(_LONG_S):
            for _ in range(_SHOTS):
                await lost.acquire()
    finally:
        for worker in arena.workers:
            worker.postgres.disarm()


@asynccontextmanager
async def _frozen(proxies: list[Proxy]) -> AsyncGenerator[None]:
    for proxy in proxies:
        proxy.freeze()
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.thaw()


async def _cut_often(proxies: list[Proxy], chance: random.Random) -> None:
    for _ in range(20):
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        chance.choice(proxies).reset()


async def _delayed(proxies: list[Proxy], delay_s: float) -> None:
    for proxy in proxies:
        proxy.delay_s = delay_s
    await asyncio.sleep(_AWAY_S)
    for proxy in proxies:
        proxy.delay_s = 0.0


async def _set_read_only(arena: Arena, value: str) -> None:
    await arena.fetch(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await arena.fetch("SELECT pg_reload_conf()")


async def _command(arena: Arena, *words: str) -> None:
    await arena.redis.execute_command(*words)
