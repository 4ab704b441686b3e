"""Planting poison in a real queue, and the worker that has to live with it."""

import asyncio
import json
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from arq.connections import ArqRedis
from engines import own_client, stop
from factories import user_fields
from waiting import until

from tidepool.engine.options import EngineOptions, TypedJobs
from tidepool.engine.worker import Worker
from tidepool.jobs.job_type import JobTypes
from tidepool.ledger.batcher import Batcher
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.queue.wire import MAX_KEPT_BYTES, MAX_PAYLOAD_BYTES, receive, serialize
from worker.jobs import JOBS

QUEUE = "arq:queue"
ENQUEUED_MS = 1_764_000_000_000
ENVELOPE: dict[str, Any] = {"f": "create_user", "a": [], "k": {}, "t": None, "et": ENQUEUED_MS}
ORDER = {"username": "ada", "sku": "LAMP", "quantity": 1}
STOCK = {"sku": "LAMP", "in_stock": True}

Plant = Callable[[Any, bytes], bytes]
"""Puts poison into a pipeline, under the id that is given or under one of its own, which is returned."""


def bare(payload: bytes | None, score: float | str = ENQUEUED_MS, **keys: bytes) -> Plant:
    """Plant bytes as a job's content (None: nothing), due at *score*; *keys* are set besides, by their prefix."""

    def plant(redis: Any, job_id: bytes) -> bytes:
        if payload is not None:
            redis.set(b"arq:job:" + job_id, payload)
        for prefix, value in keys.items():
            redis.set(f"arq:{prefix.replace('_', '-')}:".encode() + job_id, value)
        redis.zadd(QUEUE, {job_id: score})
        return job_id

    return plant


def envelope(**fields: Any) -> Plant:
    """Plant an envelope with *fields* in place of its own; a field that is `...` is missing."""
    return bare(json.dumps({name: v for name, v in {**ENVELOPE, **fields}.items() if v is not ...}).encode())


def a_user(username: str = "{}", **fields: Any) -> Plant:
    """Plant a create_user job; `{}` in its name is replaced, so that the second one is another user."""

    def plant(redis: Any, job_id: bytes) -> bytes:
        name = username.replace("{}", job_id.decode())
        return envelope(k={**user_fields(name), "email": f"{job_id.decode()}@x", **fields})(redis, job_id)

    return plant


def a_product(**fields: Any) -> Plant:
    """Plant a create_product job without a sku."""
    return envelope(f="create_product", k={"name": "Lamp", "price": "1", "category": "Home", **fields})


def an_order(**fields: Any) -> Plant:
    """Plant a place_order job with *fields* in place of its own; None: without the field."""
    return envelope(f="place_order", k={n: v for n, v in {**ORDER, **fields}.items() if v is not None})


def spliced(function: str, content: bytes) -> Plant:
    """Plant a job whose content is JSON text that `json` would not write."""
    return bare(b'{"f":"%s","a":[],"k":%s,"t":null,"et":1764000000000}' % (function.encode(), content))


def named(prefix: bytes, suffix: bytes = b"") -> Plant:
    """Plant a valid user under an id of the poison's own."""

    def plant(redis: Any, job_id: bytes) -> bytes:
        own = prefix + job_id + suffix
        content = user_fields(job_id.decode())
        return bare(serialize({**ENVELOPE, "k": content}))(redis, own)

    return plant


def of_another_type(redis: Any, job_id: bytes) -> bytes:
    """Plant a job whose content is a hash."""
    redis.hset(b"arq:job:" + job_id, "f", "create_user")
    redis.zadd(QUEUE, {job_id: ENQUEUED_MS})
    return job_id


class Bomb:
    """Runs code where somebody unpickles it."""

    canary = Path("/nonexistent")

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


def a_pickle(redis: Any, job_id: bytes) -> bytes:
    """Plant what arq's own default would unpickle."""
    return bare(pickle.dumps({**ENVELOPE, "k": {"bomb": Bomb()}}))(redis, job_id)


@asynccontextmanager
async def a_worker(
    redis: ArqRedis,
    pool: Pool,
    name: str = "worker",
    *,
    types: JobTypes = JOBS,
    leave_s: float = 0.0,
    max_held_bytes: int = 16_777_216,
) -> AsyncIterator[asyncio.Task[None]]:
    """Run the engine as `tidepool.lifecycle` wires it, with one try a job, until the block ends."""
    ledger = Ledger(pool, types, worker_id=name)
    batcher = Batcher(ledger, slots=2, limit=500)
    typed = TypedJobs(types, 1, batcher)
    options = EngineOptions(
        typed=typed,
        leave_s=leave_s,
        max_job_bytes=MAX_PAYLOAD_BYTES,
        max_held_bytes=max_held_bytes,
        max_kept_bytes=MAX_KEPT_BYTES,
    )
    worker = Worker(
        functions=typed.arq_functions(),
        redis_pool=own_client(redis),
        handle_signals=False,
        max_jobs=2000,
        allow_abort_jobs=True,
        job_serializer=serialize,
        job_deserializer=receive,
        tidepool=options,
    )
    running = worker.main_task = asyncio.create_task(worker.main())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await batcher.close()
        await stop(worker)


async def drained(redis: ArqRedis, running: asyncio.Task[None], *, left: int = 0) -> None:
    """Wait until only so many jobs are left in the queue; raises what ended the worker, if something did."""

    async def only_those_are_left() -> bool:
        if running.done():
            running.result()
        return await redis.zcard(QUEUE) == left

    await until(only_those_are_left)
