"""Answers HEAD on every route that answers GET: the same headers without a body."""

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Streams(Exception):
    """Raised to end a response that is a stream, of which nothing more is needed."""


class AnswerHead:
    """ASGI middleware that passes a HEAD request on to *app* as GET, and omits the body of the response.

    A response that is a stream ends at once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request: a HEAD request as described above, any other one unchanged."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if message.get("more_body", False):
                raise _Streams

        as_get = {**scope, "method": "GET"}
        with suppress(_Streams):
            await self._app(as_get, receive, send_head)
        scope.update(
            {name: as_get[name] for name in ("route",) if name in as_get}
        )  # for the count of requests by route
