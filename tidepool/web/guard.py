"""Checks every request before it reaches the routes: its caller, the site it comes from, its size and its rate.

- Without FRONT_TOKEN, only requests whose Host header names this machine (such as `localhost`) are answered. This
  prevents DNS rebinding: a page of another site that reaches the front by a name that it points here.
- With FRONT_TOKEN, every request but health checks needs `Authorization: Bearer …`, or a browser's signed-in session
  (`sign_in`).
- Changes are POST or PUT, with JSON or nothing as the body, and not from another site's page.
- The size of a body is limited, counted as it arrives, and so is the number of requests a second of each caller
  (`callers`). Requests with the token are counted apart from those without it.
- Every response has headers that make a browser run nothing but the front's own files, show it in no frame, guess no
  content types, and store no data.
"""

from collections.abc import Iterable
from http import HTTPStatus

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidepool.bounded_http.listening import is_loopback
from tidepool.queue.wire import MAX_PAYLOAD_BYTES
from tidepool.web.callers import Callers, Rates
from tidepool.web.problems import Problem
from tidepool.web.sign_in import MAX_FORM_BYTES, PATH, SIGN_OUT_PATH, Access

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = MAX_PAYLOAD_BYTES - 1024
"""Max bytes of a request's body: less than a job may have, as what goes with its fields has to fit, too."""
_CHANGES = ("POST", "PUT")
_METHODS = ("GET", "HEAD", *_CHANGES)
_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
_NOT_KEPT = (b"cache-control", b"no-store")

Headers = dict[bytes, bytes]


class Guard:
    """ASGI middleware that checks each request, and passes it on to *app* or refuses it.

    *access* decides who may send requests. *rate_limit* is the max number of requests a second of one address; 0: no
    limit. *callers* finds the addresses.
    """

    def __init__(self, app: ASGIApp, access: Access, rate_limit: int, callers: Callers) -> None:
        self._app = app
        self._access = access
        self._callers = callers
        self._rates = Rates(rate_limit) if rate_limit else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request: refuse it, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._callers.find(scope)
        refusal = self._refusal(scope, dict(scope["headers"]))
        send = _with_headers(send)
        try:
            await (refusal or self._app)(scope, _limited(receive, _max_bytes(scope)), send)
        except ClientDisconnect:
            log.debug("front.client_left", path=scope["path"])
            left = Problem(HTTPStatus.BAD_REQUEST, "the client has left").response()
            await left(scope, receive, send)  # for the counts

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        caller = Callers.key(scope)
        admitted = self._access.admits(headers, caller)
        return (
            self._too_often(caller, admitted=admitted)
            or self._misdirected(headers)
            or (None if admitted else _unauthorized(scope, headers))
            or _not_allowed(scope)
            or (_unsafe(scope, headers) if scope["method"] in _CHANGES else None)
        )

    def _too_often(self, caller: str, *, admitted: bool) -> Response | None:
        if self._rates is None or self._rates.admit(caller if admitted else f"{caller} without the token"):
            return None
        words = "more requests a second than FRONT_RATE_LIMIT allows one address"
        return Problem(HTTPStatus.TOO_MANY_REQUESTS, words, code="too_many", headers={"Retry-After": "1"}).response()

    def _misdirected(self, headers: Headers) -> Response | None:
        if self._access.token is not None or is_loopback(headers.get(b"host", b"").decode("latin-1")):
            return None
        words = "without FRONT_TOKEN the front answers to localhost only"
        return Problem(HTTPStatus.MISDIRECTED_REQUEST, words, code="misdirected").response()


def _unauthorized(scope: Scope, headers: Headers) -> Response | None:
    """Refuse a caller without the token, unless the request needs none: a health check, or the sign-in."""
    path: str = scope["path"]
    if path in (PATH, SIGN_OUT_PATH, "/health") or path.startswith("/health/"):
        return None
    if scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
        return RedirectResponse(PATH, HTTPStatus.SEE_OTHER)
    words = "needs Authorization: Bearer with the FRONT_TOKEN"
    return Problem(
        HTTPStatus.UNAUTHORIZED, words, code="unauthorized", headers={"WWW-Authenticate": "Bearer"}
    ).response()


def _not_allowed(scope: Scope) -> Response | None:
    if scope["method"] in _METHODS:
        return None
    words = f"only {', '.join(_METHODS)}"
    return Problem(HTTPStatus.METHOD_NOT_ALLOWED, words, headers={"Allow": ", ".join(_METHODS)}).response()


def _unsafe(scope: Scope, headers: Headers) -> Response | None:
    """Refuse a change that another site's page may have sent, whose body is not JSON, or whose body is too large.

    The sign-in's form is the one body that need not be JSON.
    """
    if not _from_here(headers):
        return Problem(HTTPStatus.FORBIDDEN, "changes are not taken from another site", code="cross_site").response()
    length = headers.get(b"content-length", b"")
    empty = length in (b"", b"0") and b"transfer-encoding" not in headers
    if not empty and scope["path"] not in (PATH, SIGN_OUT_PATH) and not _is_json(headers.get(b"content-type", b"")):
        return Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json", code="not_json"
        ).response()
    most = _max_bytes(scope)
    if length.isdigit() and int(length) > most:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(most), code="too_large", headers={"Connection": "close"}
        ).response()
    return None


def _too_large(most: int) -> str:
    return f"a body has max {most} bytes"


def _from_here(headers: Headers) -> bool:
    """Return whether a change comes from the front's own page, or from no page.

    Decided by headers that a page cannot make a browser forge.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type == b"application/json" or (media_type.startswith(b"application/") and media_type[-5:] == b"+json")


def _max_bytes(scope: Scope) -> int:
    return MAX_FORM_BYTES if scope["path"] in (PATH, SIGN_OUT_PATH) else MAX_BODY_BYTES


def _limited(receive: Receive, most: int) -> Receive:
    """Return *receive* with a limit of *most* bytes on the body, counted as it arrives, whatever was announced."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_large(most), {"Connection": "close"})
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Iterable[tuple[bytes, bytes]] = message.get("headers", ())
            message["headers"] = [*headers, *_HEADERS, *([_NOT_KEPT] if _is_data(headers) else [])]
        await send(message)

    return guarded


def _is_data(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a response is JSON without a Cache-Control header of its own."""
    named = dict(headers)
    return b"cache-control" not in named and _is_json(named.get(b"content-type", b""))
