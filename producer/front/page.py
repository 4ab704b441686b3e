"""The operators' page: one HTML file and what it loads, out of this package."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

_STATIC = Path(__file__).parent / "static"

router = APIRouter()


@router.get("/", include_in_schema=False, response_class=FileResponse)
async def page() -> FileResponse:
    """Answer the page."""
    return FileResponse(_STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def serve_static(app: FastAPI) -> None:
    """Let *app* answer the page's files under `/static`."""
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
