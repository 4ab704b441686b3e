"""Serves the data of the operators' page: `GET /picture` returns it once, `GET /events` streams it every second.

It is read from the database and the queue. Each part is cached for all viewers: the present state for one second, the
history for 2 to 60 seconds, depending on its resolution. The verdicts are those of `GET /pool/stats`. While nobody
looks at the page, nothing is read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, Request, Response
from fastapi.sse import format_sse_event
from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from tidepool.advice.sizing import Advice
from tidepool.advice.verdict import PoolVerdict
from tidepool.health.cached import Cached
from tidepool.pool.faults import DatabaseFault, Unavailable
from tidepool.queue.state import Backlog, QueueState
from tidepool.queue.wire import now_ms
from tidepool.storage.repositories import Repositories
from tidepool.web.history import SPANS, TALLIED
from tidepool.web.routing import Router
from tidepool.web.services import Services

_LIFE_S = 1.0
"""Seconds for which the present state is cached, and between two events of a stream."""
_NO_ADVICE = "No size is recommended: the figures do not support one."
_MOST_EVENTS = 30
_QUEUE_S = 0.5
"""How long a picture waits for Redis; without an answer the queue is not known, and everything else is shown."""
_RECENT = "5m"
"""The history that the counts by function are taken from, whatever time is shown."""
_SLOW_S = 10.0
"""Seconds in which a client has to take an event, or its stream is closed; browsers connect again by themselves."""
_ANSWER_S = 3.0
"""How long a stream waits for a picture before it reports trouble; less than the six seconds that the page waits."""
_TROUBLE = '"PostgreSQL does not answer."'
"""A picture needs PostgreSQL only: without Redis it has no queue."""
_LATER_MS = 1000
"""Milliseconds after which a browser connects again when a stream has ended."""

SpanName = Literal["5m", "1h", "1d"]

router = Router(tags=["page"])


class _Pictures:
    """Provides the page's data as JSON, for the last `5m`, `1h` or `1d`, out of caches that all viewers share."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._depths: deque[tuple[float, int, int, float]] = deque(maxlen=int(TALLIED.total_seconds() / _LIFE_S))
        self._backlog = Cached(_LIFE_S / 2, self._read_backlog)
        self._now = Cached(_LIFE_S, self._gather_now)
        self._history = {name: Cached(span.life_s, self._reader_of(name)) for name, span in SPANS.items()}
        self._whole = {name: Cached(_LIFE_S, self._composer_of(name)) for name in SPANS}

    def of(self, window: str) -> Cached[bytes]:
        """Return the cache of the data for *window*, which is `5m`, `1h` or `1d`.

        Its `get` returns the data, and raises `tidepool.pool.faults.DatabaseFault` if the database cannot be read.
        """
        return self._whole[window]

    def _composer_of(self, window: str) -> Callable[[], Awaitable[bytes]]:
        async def compose() -> bytes:
            now, history, recent = await asyncio.gather(
                self._now.get(), self._history[window].get(), self._history[_RECENT].get()
            )
            groups = self._services.fleet.groups()
            parts = {
                "window": window,
                "window_s": SPANS[window].length.total_seconds(),
                **now,
                "tallies": recent["tallies"],
                "history": {name: part for name, part in history.items() if name != "tallies"},
                "groups": None if groups is None else [_group(verdict) for verdict in groups],
            }
            return to_json(parts, inf_nan_mode="null", fallback=str)

        return compose

    def _reader_of(self, window: str) -> Callable[[], Awaitable[dict[str, object]]]:
        async def read() -> dict[str, object]:
            async with self._services.pool.acquire() as connection:
                repositories = Repositories(connection)
                return await SPANS[window].read(repositories, await repositories.server.clock())

        return read

    async def _gather_now(self) -> dict[str, object]:
        queue = await self._look_at_queue()
        async with self._services.pool.acquire() as connection:
            repositories = Repositories(connection)
            now = await repositories.server.clock()
            server = await repositories.server.newest()
            events = await repositories.events.newest(since=now - timedelta(days=1), limit=_MOST_EVENTS)
            has_results = await repositories.results.has_any()
        return {
            "at": now,
            "queue": queue,
            "server": server,
            "events": [_event(event) for event in events],
            "has_results": has_results,
        }

    async def _read_backlog(self) -> Backlog | None:
        """Read the queue's state from Redis, for as long as its client tries; one call at a time."""
        return await QueueState(self._services.redis).backlog(now_ms())

    async def _look_at_queue(self) -> dict[str, object] | None:
        """Return the queue's state now, and its history of the last minutes; None while Redis is unavailable.

        The history has only those times at which somebody looked at the page.
        """
        try:
            async with asyncio.timeout(_QUEUE_S):
                found = await self._backlog.get()
        except TimeoutError:
            return None
        if found is None:
            return None
        now = datetime.now(UTC)
        self._depths.append((now.timestamp(), found.waiting, found.running, found.oldest_s or 0.0))
        names = ("times", "waiting", "running", "oldest_s")
        since = (now - TALLIED).timestamp()
        columns = zip(*(row for row in self._depths if row[0] >= since), strict=True)
        return {**found._asdict(), "series": dict(zip(names, columns, strict=True))}


class Feed:
    """Provides the data of the operators' page, and streams it to all browsers that show it, until the server stops."""

    def __init__(self, services: Services) -> None:
        self.pictures = _Pictures(services)
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End every stream of events that is open, so that the server can stop."""
        self._closed.set()

    async def follow(self, window: SpanName) -> AsyncGenerator[bytes]:
        """Yield server-sent events with the page's data of the last `5m`, `1h` or `1d`, until `close` is called.

        The event `picture` with the data comes each second; while PostgreSQL does not answer, `trouble` comes instead.
        """
        picture = self.pictures.of(window)
        yield format_sse_event(data_str=None, retry=_LATER_MS)
        while not self._closed.is_set():
            try:
                async with asyncio.timeout(_ANSWER_S):
                    content = await picture.get()
            except (DatabaseFault, TimeoutError):
                yield format_sse_event(data_str=_TROUBLE, event="trouble")
            else:
                yield format_sse_event(data_str=content.decode(), event="picture")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), picture.left_s or _LIFE_S)


class _Stream(StreamingResponse):
    """A response of server-sent events, which ends if the client does not take one of them within ten seconds."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(_SLOW_S):
                await send(message)

        with suppress(TimeoutError):
            await super().stream_response(send_in_time)


def _feed(request: Request) -> Feed:
    feed: Feed = request.app.state.feed
    return feed


FromFeed = Annotated[Feed, Depends(_feed)]


@router.get("/picture", response_class=Response, responses={200: {"content": {"application/json": {}}}})
async def _picture(feed: FromFeed, window: SpanName = "5m") -> Response:
    """Return what the operators' page shows: the queue, outcomes, pools, verdicts, events."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            content = await feed.pictures.of(window).get()
    except TimeoutError:
        raise Unavailable(f"PostgreSQL gave no answer within {_ANSWER_S:g} s") from None
    return Response(content, media_type="application/json")


@router.get("/events", response_class=_Stream, responses={200: {"content": {"text/event-stream": {}}}})
async def _events(feed: FromFeed, window: SpanName = "5m") -> StreamingResponse:
    """Stream what `GET /picture` returns as server-sent events, one a second, until client or server ends it."""
    return _Stream(feed.follow(window), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def _group(verdict: PoolVerdict) -> dict[str, object]:
    """Return the part of a verdict that the page shows: the finding that decided, and the recommended size in words."""
    return {
        "processes": verdict.processes,
        "since": verdict.since,
        "pool_limit": verdict.pool_limit,
        "verdict": verdict.verdict,
        "words": verdict.words,
        "evidence": verdict.finding.evidence,
        "advice": _in_words(verdict.advice) if verdict.advice else _NO_ADVICE,
    }


def _in_words(advice: Advice) -> str:
    if advice.size == advice.limit:
        return f"Keep the pool at {advice.limit}."
    step = f", by way of {advice.next_step}" if advice.next_step != advice.size else ""
    about = f"range {advice.low} to {advice.high}, confidence {advice.confidence}"
    return f"Set the max size of the pool to {advice.size} instead of {advice.limit}{step} ({about})."


def _event(event: dict[str, Any]) -> dict[str, object]:
    """Return an event without the stack of its task, which is for `python -m worker why --json`."""
    detail = ", ".join(_fact(name, value) for name, value in event["detail"].items() if name != "stack")
    return {"at": event["at"], "kind": event["kind"], "process": event["worker_id"], "detail": detail}


def _fact(name: str, value: object) -> str:
    """Return one detail of an event in words; durations are in milliseconds."""
    if name.endswith("_us") and isinstance(value, int):
        return f"{name.removesuffix('_us')} {value / 1000:,.0f} ms"
    return f"{name} {value}"
