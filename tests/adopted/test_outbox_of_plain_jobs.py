"""Jobs that an adopted application enqueues in its own transactions."""

from collections.abc import Callable
from typing import Any

from arq.connections import ArqRedis
from arq.jobs import serialize_job
from waiting import until

from tidepool.ledger.outbox import OutboxJob, write
from tidepool.queue.wire import now_ms


async def test_a_committed_job_runs_and_leaves_the_outbox(
    work: Callable[[], None], redis: ArqRedis, connection: Any
) -> None:
    """Pickled as arq's clients do; the history has its outcome."""
    work()
    payload = serialize_job("send", ("ada@example.org",), {}, None, enqueued_ms := now_ms())
    job = OutboxJob("mail-17", "send", payload, enqueued_ms)
    async with connection.transaction():
        await write(connection, [job], schema="public", queue_name="arq:queue")
    await until(lambda: connection.fetch("SELECT FROM job_results WHERE job_id = 'mail-17' AND status = 'applied'"))

    async def is_settled() -> bool:
        return not await connection.fetch("SELECT FROM job_outbox")

    await until(is_settled)
