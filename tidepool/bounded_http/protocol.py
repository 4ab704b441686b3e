"""Handles one HTTP connection: uvicorn's protocol class, with limits on what a client may send and how slowly.

There is a time limit for each request, from its first byte until it is complete. A request that arrives in one piece,
as nearly all do, sets no timer and counts against no limit that connections share.
"""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http.limits import Limits, OpenConnections

log = structlog.get_logger(__name__)

_MALFORMED = (HTTPStatus.BAD_REQUEST, "the request is not valid HTTP")
_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"a head has max {bounds.HEAD_BYTES} bytes and {bounds.HEADERS} header lines",
)
_TOO_LARGE = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
_TOO_LATE = (HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {bounds.ARRIVAL_S:.0f} s")
_TOO_MUCH = (HTTPStatus.SERVICE_UNAVAILABLE, "too many unfinished requests")


class BoundedProtocol(HttpToolsProtocol):
    """Handles one HTTP connection for uvicorn, and enforces *limits* on what the client may send and how slowly.

    *connections* counts all connections of the server. *received* are the bytes that the client has sent already; the
    connection was opened at *opened_s*, in seconds of the event loop's clock.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        *,
        limits: Limits,
        connections: OpenConnections,
        received: bytes,
        opened_s: float,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._limits = limits
        self._received = received
        """The first bytes of the connection, until they are parsed."""
        self._all = connections
        self._in_body = False
        self._fed = 0
        """Bytes received of the current request; 0 if there is none."""
        self._body = 0
        """How many of them are its body."""
        self._counted = 0
        """How many of them are counted in `OpenConnections.unfinished_bytes`."""
        self._small_reads = 0
        self._hosts = self._head = 0
        """Number of Host headers in the head, and bytes of its header names and values."""
        self._error = _MALFORMED
        """The refusal that is sent if the parser stops."""
        self._answering: RequestResponseCycle | None = None
        """The request that is being answered, or was last; `cycle` is the latest one that has arrived."""
        self._refused = self._is_lingering = False
        """Whether a request was refused, and whether the last answer has been sent since then."""
        self._lingered = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._began_s = opened_s
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Handle a new connection: start the time limit for the head of the first request."""
        super().connection_made(transport)
        self._all.evictable[self] = None
        self._set_deadline()
        self.loop.call_soon(self._parse_first)  # when the transport has begun to read, so that it can be paused

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove a closed connection, and the body bytes that it held, from the counters that all connections share."""
        super().connection_lost(exc)
        self._all.evictable.pop(self, None)
        self._all.count -= 1
        self._message_ended()
        self._clear_stuck()
        self._unset_keepalive_if_required()

    def evict(self) -> None:
        """Close this connection at once, without an answer, to make room for another one."""
        self.transport.abort()

    def _parse_first(self) -> None:
        if self._received and not self.transport.is_closing():
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client, within the limits.

        After a request was refused, nothing is read until the last answer is sent; then bytes are read and dropped.
        """
        if self._received:
            data, self._received = self._received + data, b""
        self._unset_keepalive_if_required()
        if self._refused:
            self._drop(len(data))
            return
        for start in range(0, len(data), bounds.READ_BYTES):
            self._feed(data[start : start + bounds.READ_BYTES])
            if self._refused or self.transport.is_closing():
                return
        if self._fed:
            self._watch(len(data))

    def _drop(self, size: int) -> None:
        if not self._is_lingering:
            self.transport.pause_reading()  # again: uvicorn resumes it when the application asks for a body
            return
        self._lingered += size
        if self._lingered > bounds.LINGER_BYTES:
            self.transport.abort()
        else:
            self._read_later()

    def _feed(self, data: bytes) -> None:
        self._fed += len(data)
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess]  (None after the end only)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # answered as if it were an ordinary request; what follows is not parsed
            return
        except httptools.HttpParserError:
            self._refuse(*self._error)
            return
        if self._fed - self._body > bounds.HEAD_BYTES:
            self._check_framing()

    def _check_framing(self) -> None:
        """Refuse a head that is too long, or a body with much more around it than in it.

        What is around a body are chunk extensions and trailers.
        """
        if not self._in_body:
            self._refuse(*_HEAD_TOO_LARGE)
        elif self._fed - self._body > 2 * bounds.HEAD_BYTES + 8 * self._body:
            self._refuse(*_MALFORMED)

    def _watch(self, size: int) -> None:
        """Limit an incomplete request: in time, in bytes, and in the number of its pieces."""
        if self._deadline is None:
            self._began_s = self.loop.time()
            self._set_deadline()
        self._all.unfinished_bytes += self._fed - self._counted
        self._counted = self._fed
        if self._all.unfinished_bytes > bounds.UNFINISHED_BYTES and self._fed > bounds.SMALL_BYTES:
            self._refuse(*_TOO_MUCH)
        elif size < bounds.SMALL_BYTES:
            self._small_reads += 1
            if self._small_reads > bounds.SMALL_READS:
                self._read_later()

    def _read_later(self) -> None:
        self.transport.pause_reading()
        self.loop.call_later(bounds.READ_PAUSE_S, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing() and not self.flow.read_paused:
            self.transport.resume_reading()

    # What the parser says

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle one header line of a request.

        Refuses a head that is too long; ignores lines after the body (trailers).
        """
        if self._in_body:
            return
        self._head += len(name) + len(value) + 4
        if len(self.headers) >= bounds.HEADERS or self._head > bounds.HEAD_BYTES:
            self._stop(_HEAD_TOO_LARGE)
        self._hosts += name.lower() == b"host"
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Handle a request whose head has arrived completely: start to process the request, or refuse it.

        A request with two Host headers is refused (RFC 9112), because programs differ in which of the two counts.
        """
        if self._head + len(self.url) > bounds.HEAD_BYTES:
            self._stop(_HEAD_TOO_LARGE)
        if self._hosts > 1:
            self._stop(_MALFORMED)
        if len(self.pipeline) >= bounds.PIPELINED:
            self._stop(_TOO_MUCH)
        earlier = self._unanswered()
        super().on_headers_complete()
        if earlier is None:
            self._answering = self.cycle
        self._in_body = True
        self._clear_deadline()  # the body gets one of its own

    def on_body(self, body: bytes) -> None:
        """Handle a part of a request's body.

        A body that is longer than `Limits.body_bytes` is refused once the response is complete, since nobody reads it
        then.
        """
        self._body += len(body)
        if self._body > self._limits.body_bytes and self.cycle.response_complete:
            self._stop(_TOO_LARGE)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the time limit of the request, which has arrived completely."""
        self._message_ended()
        self._all.evictable.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Mark the connection as idle after a response, and wait for the next request.

        An idle connection may be closed in favour of a new one.
        """
        if self.pipeline:
            self._answering = self.pipeline[-1][0]  # which uvicorn begins now
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self._all.evictable[self] = None
        if self._fed:
            self._unset_keepalive_if_required()  # a message is on its way, and has a deadline

    def _stop(self, refusal: tuple[HTTPStatus, str]) -> None:
        """Make the parser stop, and with it `_feed`. Raises `ValueError`, which the parser turns into its own error."""
        self._error = refusal
        raise ValueError(refusal[1])

    # Time

    def _message_ended(self) -> None:
        self._all.unfinished_bytes -= self._counted
        self._in_body = False
        self._hosts = self._head = 0
        self._fed = self._body = self._counted = self._small_reads = 0
        self._clear_deadline()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_at(self._began_s + bounds.ARRIVAL_S, self._at_deadline)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _at_deadline(self) -> None:
        left_s = self._began_s + bounds.ARRIVAL_S + self._body / bounds.BODY_RATE - self.loop.time()
        if self._in_body and left_s > 0:
            self._deadline = self.loop.call_later(left_s, self._at_deadline)
        elif self._fed:
            self._refuse(*_TOO_LATE)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """Start the time limit for a client that does not read its response. Called when the send buffer is full."""
        super().pause_writing()
        self._clear_stuck()
        self._stuck = self.loop.call_later(bounds.SEND_S, self.transport.abort)

    def resume_writing(self) -> None:
        """End the time limit that `pause_writing` started, because the client reads its response again."""
        super().resume_writing()
        self._clear_stuck()

    def _clear_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    # Refusals

    def _refuse(self, status: HTTPStatus, words: str) -> None:
        """Answer with a problem and close; if an earlier answer is under way, close after it without another one."""
        self._refused = True
        self._clear_deadline()
        log.debug("http.refused", status=int(status), address=self.client[0] if self.client else None, detail=words)
        self.transport.pause_reading()
        current, latest = self._answering, self._unanswered()
        if latest is not None and (self._in_body or latest is not current):
            latest.body.clear()  # it is refused, or is not answered any more
        delay_s = self._limits.refusal_delay_s
        if (
            current is not None
            and not current.response_complete
            and (current is not latest or current.response_started or not self._in_body)
        ):
            self.pipeline.clear()  # an earlier request is being answered: the connection ends after it
            self._after(delay_s, self._end_with, current)
        else:
            self._after(delay_s, self._answer_refusal, status, words)

    def _after(self, delay_s: float, callback: Callable[..., None], *arguments: object) -> None:
        if delay_s:
            self.loop.call_later(delay_s, callback, *arguments)
        else:
            callback(*arguments)

    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """Close the connection as soon as the answer of *cycle* is complete."""
        cycle.keep_alive = False
        cycle.transport = _LastAnswer(self.transport, self._linger)  # pyright: ignore[reportAttributeAccessIssue]
        if cycle.response_complete:
            self._linger()

    def _answer_refusal(self, status: HTTPStatus, words: str) -> None:
        if self.transport.is_closing():
            return
        if (cycle := self._unanswered()) is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_problem(status, words))
        self._linger()

    def _linger(self) -> None:
        """Close the connection for writing, and after `LINGER_S` altogether: at once could discard the last answer."""
        if self._is_lingering or self.transport.is_closing():
            return
        self._is_lingering = True
        self._all.evictable[self] = None
        self.transport.write_eof()
        self._read_on()
        self._deadline = self.loop.call_later(bounds.LINGER_S, self._close)

    def _close(self) -> None:
        """Close the connection when the last answer has been sent, for which it has `SEND_S`."""
        self.transport.close()
        self._deadline = self.loop.call_later(bounds.SEND_S, self.transport.abort)

    def _unanswered(self) -> RequestResponseCycle | None:
        """Return the request whose answer is not complete; uvicorn has None until the first head is complete."""
        return self.cycle if self.cycle and not self.cycle.response_complete else None


class _LastAnswer:
    """The transport as the last request of a connection sees it: *close* is called in place of the transport's own."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


def _problem(status: HTTPStatus, words: str) -> bytes:
    """Return a complete HTTP response with problem details (RFC 9457), which closes the connection."""
    members = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": words}
    body = json.dumps(members).encode()
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


BUSY = _problem(HTTPStatus.SERVICE_UNAVAILABLE, "all connections are in use")
"""The response for a client that cannot get a connection."""
TOO_LATE = _problem(*_TOO_LATE)
"""The response for a client whose first request has not arrived in time."""
