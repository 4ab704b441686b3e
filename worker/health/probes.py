"""What a worker's own port answers: `/health/live`, `/health/ready` and `/metrics`.

`serving` imports it where there is a port only: the HTTP server takes 4 MB and a tenth of a second.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.health.readiness import Report

_GRACE_S = 1

Look = Callable[[], Awaitable[Report]]
Render = Callable[[str], tuple[bytes, str] | None]


class ProbeServer(uvicorn.Server):
    """The HTTP server. *look* says whether the process is ready; *render* gives the figures, None while it starts."""

    def __init__(
        self, look: Callable[[], Awaitable[Report]], render: Callable[[str], tuple[bytes, str] | None]
    ) -> None:
        async def live(_request: Request) -> Response:
            return JSONResponse({"alive": True})

        async def ready(_request: Request) -> Response:
            report = await look()
            return JSONResponse(report.document(), HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE)

        async def metrics(request: Request) -> Response:
            rendered = render(request.headers.get("accept", ""))
            if rendered is None:
                return Response("the process is starting\n", HTTPStatus.SERVICE_UNAVAILABLE, media_type="text/plain")
            return Response(rendered[0], headers={"Content-Type": rendered[1]})

        routes = [Route("/health/live", live), Route("/health/ready", ready), Route("/metrics", metrics)]
        super().__init__(
            uvicorn.Config(
                Starlette(routes=routes),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone: SIGTERM is the worker's."""
        yield
