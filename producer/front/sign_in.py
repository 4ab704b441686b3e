"""Signing in with a browser, where the front has a token: a page that asks for it, and a session in a cookie.

The cookie does not have the token but a time and its signature. Scripts cannot read it, and no other
site's request carries it.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from producer.front.services import Using

PATH = "/sign-in"
COOKIE = "tidepool"
_LENGTH_S = 12 * 3600
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

router = APIRouter(include_in_schema=False)


class Sessions:
    """Opens sessions, and tells whether one is open. A new token, or half a day, ends them."""

    def __init__(self, token: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = hashlib.sha256(f"tidepool session {token}".encode()).digest()
        self._clock = clock

    def open(self) -> str:
        """Return the cookie of a new session."""
        return self._signed(str(int(self._clock()) + _LENGTH_S))

    def is_open(self, cookie: str) -> bool:
        """Return whether *cookie* is one of ours, and not too old."""
        ends_at, _, _ = cookie.partition(".")
        signed = hmac.compare_digest(cookie.encode(), self._signed(ends_at).encode())
        return signed and self._clock() < int(ends_at)

    def _signed(self, ends_at: str) -> str:
        return f"{ends_at}.{hmac.new(self._key, ends_at.encode(), hashlib.sha256).hexdigest()}"


@router.get(PATH)
async def page() -> HTMLResponse:
    """Ask for the token."""
    return HTMLResponse(_PAGE.format(words=""))


@router.post(PATH)
async def sign_in(request: Request, services: Using) -> Response:
    """Open a session for who has the token, and send it to the page."""
    token = services.settings.front_token
    given = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0]
    if token is not None and not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        return HTMLResponse(_PAGE.format(words="That is not the token."), HTTPStatus.UNAUTHORIZED)
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    if token is not None:
        cookie = Sessions(token.get_secret_value()).open()
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, _LENGTH_S, httponly=True, samesite="strict", secure=secure)
    return answer
