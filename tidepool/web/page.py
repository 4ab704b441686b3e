"""Serves the operators' page: one HTML file and the scripts and styles that it loads."""

import functools
from pathlib import Path

from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from tidepool.web.routing import Router
from tidepool.web.services import Using

_STATIC = Path(__file__).parent / "static"
_SHOWN = '<form id="sign-out" method="post" action="/sign-out">'
_HIDDEN = _SHOWN.replace(">", " hidden>")

router = Router()
static_files = StaticFiles(directory=_STATIC)
"""The files that the page loads, for `/static`."""


@router.get("/", include_in_schema=False)
async def _page(services: Using) -> HTMLResponse:
    """Return the operators' page. If FRONT_TOKEN is set, it has a button to sign out."""
    html = _html(can_sign_out=services.settings.front_token is not None)
    return HTMLResponse(html, headers={"Cache-Control": "no-cache"})


@functools.cache
def _html(*, can_sign_out: bool) -> str:
    html = (_STATIC / "index.html").read_text("utf-8")
    return html.replace(_HIDDEN, _SHOWN) if can_sign_out else html
