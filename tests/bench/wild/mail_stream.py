"""A stream of mails for the service of `tests.wild.mails`, and the account of what was sent and stored."""

import asyncio
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.bench.killing import Kill, working
from tests.bench.wild.trial import Application, Plan, Run, Site, begin, delays, doubles, open_site, ticks, wait_until
from tests.wild import mails
from tests.wild.mails import DELAYS_S, REFRESH_EVERY_S, REFRESH_TIMEOUT_S, Attachment, Mail, ProviderEvent
from tests.wild.provider import Provider, Request

_COMMANDS = {
    engine: (sys.executable, "-m", f"tests.wild.{module}")
    for engine, module in (("stock", "mails_worker"), ("moved", "mails_moved"))
}
_SEND_S = 0.2
"""Seconds that the provider takes for a mail."""
_REFUSALS, _WEIGHTS = (0, 1, 2, len(DELAYS_S)), (80, 10, 7, 3)
"""How often the provider refuses a mail, and of how many mails in a hundred. The last are never accepted."""
_ATTACHED, _ATTACHED_BYTES = 20, (300_000, 2_000_000)
"""Each mail of so many has an attachment, of one of these sizes."""
_REPORTED_TWICE = 10
"""The events of each mail of so many are reported twice."""
_CLICKED = 3
"""Somebody follows the link in each mail of so many."""


@dataclass
class Stream:
    """The mails and events so far: when each was enqueued, by its id, in seconds of the clock."""

    mails_s: dict[str, float] = field(default_factory=dict)
    events_s: dict[str, float] = field(default_factory=dict)
    clicks_s: dict[str, float] = field(default_factory=dict)
    reported: int = 0
    """The accepted mails whose events are all enqueued."""


async def _run(engine: str, plan: Plan) -> dict[str, object]:
    """Run the stream on one engine, and return its figures."""
    count = plan.rate * plan.seconds
    chosen = random.Random(plan.rate).choices(_REFUSALS, _WEIGHTS, k=count)
    provider = Provider({_uid(number): refusals for number, refusals in enumerate(chosen)}, _SEND_S)
    stream = Stream()
    async with open_site(mails.create_tables) as site, provider.open():
        environment = {**site.environment, "PROVIDER_URL": provider.url}
        async with working(_COMMANDS[engine], environment) as workers:
            began_s = await begin(site, REFRESH_EVERY_S)
            reporting = asyncio.create_task(_report(site, provider, stream))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_enqueue(site, stream, plan))
                tasks.create_task(workers.kill(plan.signals, plan.seconds))
            ended_s = time.time()

            async def is_over() -> bool:
                are_enqueued = stream.reported == sum(request.is_accepted for request in provider.requests)
                return are_enqueued and await site.has_ended(ended_s)

            await wait_until(is_over, plan.wait_s)
            reporting.cancel()
            return {
                "mails": await _account_mails(site, provider, stream, workers.kills, plan.late_s),
                "events": await _account_events(site, stream, workers.kills, plan.late_s),
                "clicks": await _account_stored(site, "kind = 'click'", stream.clicks_s, workers.kills, plan.late_s),
                "cron": await ticks(site, began_s, ended_s, REFRESH_EVERY_S, workers.kills),
            }


def _uid(number: int) -> str:
    return f"mail-{number}"


async def _enqueue(site: Site, stream: Stream, plan: Plan) -> None:
    """Enqueue *plan.rate* mails a second for *plan.seconds* seconds."""
    began_s = time.monotonic()
    for number in range(plan.rate * plan.seconds):
        await asyncio.sleep(began_s + number / plan.rate - time.monotonic())
        size = _ATTACHED_BYTES[number // _ATTACHED % len(_ATTACHED_BYTES)]
        attachments = [] if number % _ATTACHED else [Attachment(name="scan", content=b"\xff" * size)]
        mail = Mail(uid=_uid(number), to="ada@example.com", subject="Hello", text="…", attachments=attachments)
        stream.mails_s[mail.uid] = time.time()
        await site.redis.enqueue_job("send_mail", mail)


async def _report(site: Site, provider: Provider, stream: Stream) -> None:
    """Enqueue the events of each mail that the provider accepts, as the service's web site does."""
    while True:
        request = await provider.accepted.get()
        number = int(request.uid.rpartition("-")[2])
        now = datetime.now(UTC)
        for kind in ("delivered", "opened"):
            event_id = f"{request.external_id}-{kind}"
            event = ProviderEvent(id=event_id, external_id=request.external_id, kind=kind, happened_at=now)
            stream.events_s[event.id] = time.time()
            for _ in range(1 if number % _REPORTED_TWICE else 2):
                await site.redis.enqueue_job("store_event", event)
        if number % _CLICKED == 0:
            url = f"https://example.com/{request.external_id}"
            stream.clicks_s[url] = time.time()
            await site.redis.enqueue_job("store_click", external_id=request.external_id, url=url, clicked_at=now)
        stream.reported += 1


async def _account_mails(
    site: Site, provider: Provider, stream: Stream, kills: list[Kill], late_s: float
) -> dict[str, object]:
    """Compare the provider's log and the table with the mails of the stream."""
    rows = await site.database.fetch("SELECT uid, external_id, status, worker, stored_at FROM mails")
    ends = _ends(stream, provider, rows)
    requests: dict[str, list[Request]] = {uid: [] for uid in stream.mails_s}
    for request in provider.requests:
        requests[request.uid].append(request)
    accepted = {request.external_id for request in provider.requests if request.is_accepted}
    by_plan = [provider.refusals[uid] for uid in stream.mails_s]
    return {
        "jobs": len(stream.mails_s),
        "lost": sum(not runs for runs in ends.values()),
        "lost_never_begun": sum(not ends[uid] and not requests[uid] for uid in ends),
        "sent_not_stored": len(accepted - {row["external_id"] for row in rows}),
        "failed": sum(row["status"] == "failed" for row in rows),
        "failed_by_plan": by_plan.count(len(DELAYS_S)),
        **doubles(ends.values(), kills),
        **delays([delay_s for uid in ends for delay_s in _delays_s(stream.mails_s[uid], requests[uid])], late_s),
        "attempts": _histogram(map(len, requests.values())),
        "attempts_by_plan": _histogram(min(refusals + 1, len(DELAYS_S)) for refusals in by_plan),
    }


def _ends(stream: Stream, provider: Provider, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Run]]:
    """Return for each mail the runs that sent it or marked it as failed, in the order of time.

    A run that has sent a mail and not stored it has no end: it went on until its worker was killed.
    """
    ends: dict[str, list[Run]] = {uid: [] for uid in stream.mails_s}
    stored_s = {row["external_id"]: row["stored_at"].timestamp() for row in rows}
    for request in provider.requests:
        if request.is_accepted:
            ended_s = stored_s.get(request.external_id, math.inf)
            ends[request.uid].append(Run(request.worker, request.sent_s, ended_s))
    for row in rows:
        if row["status"] == "failed":
            ends[row["uid"]].append(_run_of(row["worker"], row["stored_at"]))
    return {uid: sorted(runs, key=lambda run: run.began_s) for uid, runs in ends.items()}


def _run_of(worker: int, stored_at: datetime) -> Run:
    """Return the run that stored a row, as far as the row says."""
    return Run(worker, stored_at.timestamp(), stored_at.timestamp())


def _delays_s(enqueued_s: float, requests: Iterable[Request]) -> Iterable[float]:
    """Yield how late each request for a mail was: after it was enqueued, or after the delay of the refused one before.

    A request after an accepted one was never due.
    """
    due_s = enqueued_s
    for request in requests:
        yield request.sent_s - due_s
        if request.is_accepted or request.ended_s is None:
            return
        due_s = request.ended_s + DELAYS_S[request.attempt - 1]


async def _account_events(site: Site, stream: Stream, kills: list[Kill], late_s: float) -> dict[str, object]:
    """Compare the table with the provider's events. Those that were begun have a counter in Redis."""
    account = await _account_stored(site, "kind <> 'click'", stream.events_s, kills, late_s)
    counters = await site.redis.mget([f"event:{event_id}" for event_id in stream.events_s])
    return {**account, "lost_never_begun": sum(counter is None for counter in counters)}


async def _account_stored(
    site: Site, which: str, enqueued_s: Mapping[str, float], kills: list[Kill], late_s: float
) -> dict[str, object]:
    """Compare some rows of the table `events` with what was enqueued."""
    stored: dict[str, list[Run]] = {source: [] for source in enqueued_s}
    rows = await site.database.fetch(f"SELECT source, worker, stored_at FROM events WHERE {which} ORDER BY stored_at")
    for source, worker, stored_at in rows:
        stored[source].append(_run_of(worker, stored_at))
    return {
        "jobs": len(stored),
        "lost": sum(not runs for runs in stored.values()),
        **doubles(stored.values(), kills),
        **delays([runs[0].ended_s - enqueued_s[source] for source, runs in stored.items() if runs], late_s),
    }


def _histogram(numbers: Iterable[int]) -> dict[str, int]:
    counts = Counter(numbers)
    return {str(number): counts[number] for number in sorted(counts)}


APPLICATION = Application(_run, _COMMANDS, longest_timeout_s=REFRESH_TIMEOUT_S, rate=30)
