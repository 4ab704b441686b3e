"""Serves the data of the operators' page: `GET /picture` returns it once, `GET /events` streams it every second."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import Depends, Request, Response
from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from tidepool.pool.faults import DatabaseFault, Unavailable
from tidepool.web.picture import LIFE_S, Pictures
from tidepool.web.routing import Router
from tidepool.web.services import Services

_SLOW_S = 10.0
"""Seconds in which a client has to take an event, or its stream is closed; browsers connect again by themselves."""
_ANSWER_S = 3.0
"""How long a stream waits for a picture before it reports trouble; less than the six seconds that the page waits."""
_TROUBLE = '"PostgreSQL does not answer."'
"""A picture needs PostgreSQL only: without Redis it has no queue (`Pictures`)."""
_LATER_MS = 1000
"""Milliseconds after which a browser connects again when a stream has ended."""

Window = Literal["5m", "1h", "1d"]

router = Router(tags=["page"])


class Feed:
    """Streams the page's data to all browsers that show it, until the server stops."""

    def __init__(self, services: Services) -> None:
        self.pictures = Pictures(services)
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End every open stream, so that the server can stop."""
        self._closed.set()

    async def follow(self, window: Window) -> AsyncGenerator[bytes]:
        """Yield server-sent events with the data of the last `5m`, `1h` or `1d`, until `close` is called.

        A `picture` with the data comes each second, a `trouble` instead while PostgreSQL does not answer.
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
                await asyncio.wait_for(self._closed.wait(), picture.left_s or LIFE_S)


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
async def _picture(feed: FromFeed, window: Window = "5m") -> Response:
    """Return what the operators' page shows: the queue, outcomes, pools, verdicts, events."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            content = await feed.pictures.of(window).get()
    except TimeoutError:
        raise Unavailable(f"PostgreSQL gave no answer within {_ANSWER_S:g} s") from None
    return Response(content, media_type="application/json")


@router.get("/events", response_class=_Stream, responses={200: {"content": {"text/event-stream": {}}}})
async def _events(feed: FromFeed, window: Window = "5m") -> StreamingResponse:
    """Stream what `GET /picture` returns as server-sent events, one a second, until client or server ends it."""
    return _Stream(feed.follow(window), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
