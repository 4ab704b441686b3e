"""Serves the operators' page: one HTML file and the scripts and styles that it loads."""

import functools
from html import escape
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from tidepool.web.routing import Router
from tidepool.web.services import Using

_STATIC = Path(__file__).parent / "static"
_SHOWN = '<form id="sign-out" method="post" action="/sign-out">'
_HIDDEN = _SHOWN.replace(">", " hidden>")
_PROGRAM = "{program}"
"""Stands in the file for the command line that has the operators' commands."""

router = Router()
static_files = StaticFiles(directory=_STATIC)
"""The files that the page loads, for `/static`."""


@router.get("/", include_in_schema=False)
async def _page(request: Request, services: Using) -> HTMLResponse:
    """Return the operators' page. If FRONT_TOKEN is set, it has a button to sign out."""
    html = _html(request.app.state.program, can_sign_out=services.settings.front_token is not None)
    return HTMLResponse(html, headers={"Cache-Control": "no-cache"})


@functools.cache
def _html(program: str, *, can_sign_out: bool) -> str:
    html = (_STATIC / "index.html").read_text("utf-8").replace(_PROGRAM, escape(program))
    return html.replace(_HIDDEN, _SHOWN) if can_sign_out else html
