"""The mails and their events, on stock arq and on Tidepool."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from arq.connections import ArqRedis
from waiting import until

from tests.wild import mails
from tests.wild.mails import Attachment, Mail, ProviderEvent
from tests.wild.provider import Provider
from tidepool.pool.config import PoolConfig

WORKERS = ["mails_worker", "mails_moved"]
WAIT_S = 20.0
NOW = datetime(2026, 11, 30, 12, 30, tzinfo=UTC)


@pytest.fixture
async def provider(
    request: pytest.FixtureRequest, empty_database: PoolConfig, run_worker: Callable[..., None]
) -> AsyncIterator[Provider]:
    """Give a provider with a worker of the service, on stock arq or on Tidepool."""
    await mails.create_tables(empty_database.url)
    provider = Provider(refusals={"refused": 1, "hopeless": 100})
    async with provider.open():
        run_worker(f"tests.wild.{request.param}", PROVIDER_URL=provider.url)
        yield provider


@pytest.fixture
async def database(empty_database: PoolConfig) -> AsyncIterator[Any]:
    """Give a connection to the service's database."""
    connection: Any = await asyncpg.connect(empty_database.url)
    yield connection
    await connection.close()


@pytest.fixture
def arq(redis: ArqRedis) -> ArqRedis:
    """Give arq's client, with arq's own serializer."""
    return ArqRedis(redis.connection_pool)


async def run(arq: ArqRedis, function: str, *arguments: Any, **named: Any) -> Any:
    """Enqueue a job, and return its result or raise its error."""
    job = await arq.enqueue_job(function, *arguments, **named)
    assert job is not None
    return await job.result(WAIT_S, poll_delay=0.02)


def mail(uid: str, *attachments: Attachment) -> Mail:
    """Return a mail."""
    return Mail(uid=uid, to="ada@example.com", subject="Hello", text="…", attachments=list(attachments))


@pytest.mark.parametrize("provider", WORKERS, indirect=True)
async def test_mails_are_sent_and_their_events_are_stored(provider: Provider, arq: ArqRedis, database: Any) -> None:
    """A large one, one that is refused at first, and one whose last try was refused; an event twice, and a click."""
    assert "sent" == await run(arq, "send_mail", mail("large", Attachment(name="film", content=b"\xff" * 1_500_000)))
    assert "sent" == await run(arq, "send_mail", mail("refused"))
    last_try = len(mails.DELAYS_S)
    assert "failed" == await run(arq, "send_mail", mail("hopeless"), _job_try=last_try)
    asked = [(request.uid, request.attempt, request.is_accepted) for request in provider.requests]
    assert [("large", 1, True), ("refused", 1, False), ("refused", 2, True), ("hopeless", last_try, False)] == asked
    assert provider.requests[0].body_bytes > 2_000_000
    stored = await database.fetch("SELECT uid, status, tries, external_id FROM mails ORDER BY id")
    assert [
        ("large", "sent", 1, "mail-0"),
        ("refused", "sent", 2, "mail-2"),
        ("hopeless", "failed", last_try + 1, None),
    ] == [tuple(row) for row in stored]

    event = ProviderEvent(id="event", external_id="mail-0", kind="opened", happened_at=NOW)
    assert ["stored", "duplicate"] == [await run(arq, "store_event", event) for _ in range(2)]
    await run(arq, "store_click", external_id="mail-0", url="https://example.com/", clicked_at=NOW)
    events = await database.fetch("SELECT external_id, kind, source, happened_at FROM events ORDER BY id")
    expected = [("mail-0", "opened", "event", NOW), ("mail-0", "click", "https://example.com/", NOW)]
    assert expected == [tuple(row) for row in events]

    counted = "SELECT count(*) = 3 FROM mail_statistics WHERE mails = 1 AND status IN ('opened', 'sent', 'failed')"
    await until(lambda: database.fetchval(counted))
