"""A service that sends mails through a provider and keeps the provider's events: `mails_worker` runs a worker of it.

The public application tutorcruncher/morpheus worked like this before 2026; the code is our own. Mails are pydantic
objects that arq pickles. When the provider refuses one, the number of the try decides about the delay, and after the
last delay the mail is marked as failed. Events are deduplicated by a counter in Redis and inserted then, so that a
worker that ends between the two loses an event.

The delays are tenths of seconds to seconds in place of 5 s to 12 h, and all timeouts are short, since stock arq repeats
the job of a killed worker only after the longest of all timeouts and ten seconds.
"""

import os
import time
from datetime import datetime
from typing import Any

import asyncpg
import httpx
from arq import Retry, cron
from pydantic import BaseModel, ConfigDict

DELAYS_S = (0.2, 0.5, 1.0, 2.0)
"""Seconds after each refused try. The try after the last of them marks the mail as failed."""
REFRESH_EVERY_S = 2
"""Seconds between two runs of the cron job that refreshes the statistics."""
JOB_TIMEOUT_S, REFRESH_TIMEOUT_S = 10, 20
"""Timeouts in seconds of a job, and of that cron job."""
_EVENT_IDS_KEPT_S = 86_400

SCHEMA = """
CREATE TABLE mails (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid         text        NOT NULL,
    external_id text,
    status      text        NOT NULL,
    tries       int         NOT NULL,
    worker      int         NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON mails (external_id);
CREATE TABLE events (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    external_id text        NOT NULL,
    kind        text        NOT NULL,
    source      text        NOT NULL, -- the provider's id of the event, or the address that was clicked
    worker      int         NOT NULL,
    happened_at timestamptz NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE MATERIALIZED VIEW mail_statistics AS SELECT status, count(*) AS mails FROM mails GROUP BY status;
CREATE UNIQUE INDEX ON mail_statistics (status);
CREATE TABLE cron_runs (
    job_id   text        NOT NULL,
    worker   int         NOT NULL,
    began_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


class Attachment(BaseModel):
    """A file in a mail."""

    model_config = ConfigDict(ser_json_bytes="base64")
    name: str
    content: bytes


class Mail(BaseModel):
    """What is sent, and to whom."""

    uid: str
    to: str
    subject: str
    text: str
    attachments: list[Attachment] = []


class ProviderEvent(BaseModel):
    """What the provider reports about a mail that it has accepted; it may report the same event again."""

    id: str
    external_id: str
    kind: str
    happened_at: datetime


async def create_tables(url: str) -> None:
    """Create the tables in an empty database."""
    connection: Any = await asyncpg.connect(url)
    await connection.execute(SCHEMA)
    await connection.close()


async def send_mail(ctx: dict[Any, Any], mail: Mail) -> str:
    """Send a mail through the provider and store it; return its status. Retries after a delay if that fails."""
    attempt = ctx["job_try"]
    if attempt > len(DELAYS_S):
        await _store(ctx, mail, status="failed", external_id=None)
        return "failed"
    headers = {"X-Uid": mail.uid, "X-Try": str(attempt), "X-Worker": str(os.getpid()), "X-Sent-At": str(time.time())}
    try:
        answer = await ctx["provider"].post("/messages", content=mail.model_dump_json(), headers=headers)
        answer.raise_for_status()
    except httpx.HTTPError:
        raise Retry(defer=DELAYS_S[attempt - 1]) from None
    await _store(ctx, mail, status="sent", external_id=answer.json()["id"])
    return "sent"


async def _store(ctx: dict[Any, Any], mail: Mail, *, status: str, external_id: str | None) -> None:
    await ctx["database"].execute(
        "INSERT INTO mails (uid, external_id, status, tries, worker) VALUES ($1, $2, $3, $4, $5)",
        *(mail.uid, external_id, status, ctx["job_try"], os.getpid()),
    )


async def store_event(ctx: dict[Any, Any], event: ProviderEvent) -> str:
    """Store an event of the provider, unless it has been reported before."""
    key = f"event:{event.id}"
    if await ctx["redis"].incr(key) > 1:
        return "duplicate"
    await ctx["redis"].expire(key, _EVENT_IDS_KEPT_S)
    async with ctx["database"].acquire() as connection, connection.transaction():
        await connection.execute("UPDATE mails SET status = $2 WHERE external_id = $1", event.external_id, event.kind)
        await _insert_event(connection, event.external_id, event.kind, event.id, event.happened_at)
    return "stored"


async def store_click(ctx: dict[Any, Any], *, external_id: str, url: str, clicked_at: datetime) -> None:
    """Store that somebody followed a link in a mail."""
    async with ctx["database"].acquire() as connection:
        await _insert_event(connection, external_id, "click", url, clicked_at)


async def _insert_event(connection: Any, external_id: str, kind: str, source: str, happened_at: datetime) -> None:
    await connection.execute(
        "INSERT INTO events (external_id, kind, source, worker, happened_at) VALUES ($1, $2, $3, $4, $5)",
        *(external_id, kind, source, os.getpid(), happened_at),
    )


async def refresh_statistics(ctx: dict[Any, Any]) -> None:
    """Refresh the materialised view of the statistics."""
    async with ctx["database"].acquire() as connection, connection.transaction():
        await connection.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY mail_statistics")
        await connection.execute("INSERT INTO cron_runs (job_id, worker) VALUES ($1, $2)", ctx["job_id"], os.getpid())


async def startup(ctx: dict[Any, Any]) -> None:
    """Connect to the database and to the provider, whose addresses `ctx` was given."""
    ctx["database"] = await asyncpg.create_pool(ctx["database_url"], min_size=2, max_size=10)
    ctx["provider"] = httpx.AsyncClient(base_url=ctx["provider_url"], timeout=5.0)


async def shutdown(ctx: dict[Any, Any]) -> None:
    """Close the connections."""
    await ctx["provider"].aclose()
    await ctx["database"].close()


worker_settings = {
    "functions": (send_mail, store_event, store_click),
    "cron_jobs": (cron(refresh_statistics, second=set(range(0, 60, REFRESH_EVERY_S)), timeout=REFRESH_TIMEOUT_S),),
    "on_startup": startup,
    "on_shutdown": shutdown,
    "max_jobs": 20,
    "max_tries": len(DELAYS_S) + 1,
    "job_timeout": JOB_TIMEOUT_S,
    "keep_result": 5,
}
