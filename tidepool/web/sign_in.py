"""Checks the front's token (FRONT_TOKEN): given as `Authorization: Bearer`, or by a browser that has signed in.

A browser gets a session in a cookie, which contains the time of its end, a random id and their signature, not the
token. Scripts cannot read it, and no other site's request carries it. The signature's key is derived from the token
with scrypt, so that several fronts share sessions, and trying tokens against a cookie that somebody has seen takes some
50 ms each.
"""

import functools
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qs

import structlog
from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tidepool.web.callers import Callers, Rates
from tidepool.web.routing import Router

log = structlog.get_logger(__name__)

PATH = "/sign-in"
SIGN_OUT_PATH = "/sign-out"
MAX_FORM_BYTES = 4096
COOKIE = "tidepool"
_LENGTH_S = 12 * 3600
_MAX_SIGNED_OUT = 10_000
_MAX_FIELDS = 8
_FAILURES_PER_S, _FAILURES_BURST_S = 1.0, 5.0
"""Wrong tokens that one address may give: five at once, and one a second."""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Sign in to Tidepool</title>
<main>
<h1>Tidepool</h1>
<form method="post">
<p><label>The front's token (FRONT_TOKEN)<br>
<input type="password" name="token" autocomplete="current-password" required autofocus></label>
<p role="alert">{words}
<p><button>Sign in</button>
</form>
</main>
</html>
"""

router = Router(include_in_schema=False)


class Access:
    """Decides whether a request has access: by the front's token or by a session. If *token* is None, each request has.

    A session of a browser that has signed in ends after twelve hours, at a sign-out, or when the token is changed.
    Sign-outs are known to this process only, until it ends: another front accepts a stolen cookie until it expires. The
    browser that signs out has its cookie removed in any case.
    """

    def __init__(self, token: str | None, *, clock: Callable[[], float] = time.time) -> None:
        self.token = token
        self._key = _derived(token) if token is not None else b""
        self._clock = clock
        self._signed_out: dict[str, None] = {}
        self._failures = Rates(_FAILURES_PER_S, burst_s=_FAILURES_BURST_S)

    def open_session(self) -> str:
        """Open a session for a browser that has signed in, and return the value of the session's cookie."""
        return self._signed(f"{int(self._clock()) + _LENGTH_S}.{secrets.token_hex(8)}")

    def has_session(self, cookie: str) -> bool:
        """Return whether *cookie*, a cookie's value, is signed by us, not expired, and not signed out."""
        session, _, _ = cookie.rpartition(".")
        if not hmac.compare_digest(cookie.encode(), self._signed(session).encode()):
            return False
        return self._clock() < int(session.partition(".")[0]) and session not in self._signed_out

    def end_session(self, cookie: str) -> None:
        """End the session of *cookie*: it is signed out. Only the last 10,000 sign-outs are remembered."""
        if self.has_session(cookie):
            self._signed_out[cookie.rpartition(".")[0]] = None
            if len(self._signed_out) > _MAX_SIGNED_OUT:
                del self._signed_out[next(iter(self._signed_out))]

    def _signed(self, session: str) -> str:
        return f"{session}.{hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()}"

    def is_right(self, given: bytes) -> bool:
        """Return whether *given* is the front's token; True if no token is configured."""
        return self.token is None or hmac.compare_digest(given, self.token.encode())

    def admits(self, headers: dict[bytes, bytes], caller: str) -> bool:
        """Return whether the *headers* of a request have the token, or a session that was opened with it.

        A wrong token is counted for *caller*, and logged. Without a token every request is admitted.
        """
        if self.token is None:
            return True
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return self.has_session(_cookie_of(headers.get(b"cookie", b"")))
        right = self.is_right(given.strip())
        if not right:
            self.failed(caller, "bearer")
        return right

    def may_try(self, caller: str) -> bool:
        """Return whether the client at the address *caller* may try a token now, or has tried too many wrong ones.

        A client may try five wrong tokens at once, and one more each second.
        """
        return self._failures.has_one(caller)

    def failed(self, caller: str, way: str) -> None:
        """Count a wrong token from the address *caller*, and log it unless the caller has sent too many.

        *way* is how the token was given: `bearer` or `form`.
        """
        if self._failures.admit(caller):
            log.warning("front.sign_in_failed", address=caller, way=way)


def _cookie_of(cookies: bytes) -> str:
    """Return the session's cookie out of a Cookie header, or nothing."""
    pairs = (pair.strip().partition(b"=") for pair in cookies.split(b";"))
    return next((value.decode("latin-1") for name, _, value in pairs if name == COOKIE.encode()), "")


@router.get(PATH)
async def _page() -> HTMLResponse:
    """Return the form that asks for the token."""
    return HTMLResponse(_PAGE.format(words=""))


@router.post(PATH)
async def _sign_in(request: Request) -> Response:
    """Open a session for a browser that gives the token, and redirect it to the page."""
    access: Access = request.app.state.access
    given = _token_in(await request.body())
    caller = Callers.key(request.scope)
    if not access.may_try(caller):
        words = _PAGE.format(words="Too many wrong tokens from this address. Try again in some seconds.")
        return HTMLResponse(words, HTTPStatus.TOO_MANY_REQUESTS, headers={"Retry-After": "5"})
    if not access.is_right(given):
        access.failed(caller, "form")
        return HTMLResponse(_PAGE.format(words="That is not the token."), HTTPStatus.UNAUTHORIZED)
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    if access.token is not None:
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, access.open_session(), _LENGTH_S, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post(SIGN_OUT_PATH)
async def _sign_out(request: Request) -> Response:
    """End the browser's session, and ask for the token again."""
    access: Access = request.app.state.access
    if access.token is not None:
        access.end_session(request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(PATH, HTTPStatus.SEE_OTHER)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


def _token_in(form: bytes) -> bytes:
    """Return the token in the body of a sign-in form; empty if there is none."""
    try:
        fields = parse_qs(form.decode("utf-8", "replace"), max_num_fields=_MAX_FIELDS)
    except ValueError:
        return b""
    return fields.get("token", [""])[0].encode("utf-8", "replace")


@functools.lru_cache(maxsize=8)
def _derived(token: str) -> bytes:
    return hashlib.scrypt(token.encode(), salt=b"tidepool session", n=2**14, r=8, p=1)
