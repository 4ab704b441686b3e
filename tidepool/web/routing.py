"""The base class of routers: it sets how the paths of routes are written and how the routes are named."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter


class Router(APIRouter):
    """A FastAPI router. Its routes answer with and without a slash at the end, if their path has no parameters.

    A route has the name of its function, without the underscore of a private one: OpenAPI's operation ids and summaries
    are made of these names.
    """

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route as FastAPI does, and its twin with or without the slash at the end of the path."""
        options["name"] = options.get("name") or endpoint.__name__.removeprefix("_")
        super().add_api_route(path, endpoint, **options)
        if "{" not in path and path != "/":
            other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
            undocumented: dict[str, Any] = {**options, "include_in_schema": False}
            super().add_api_route(other, endpoint, **undocumented)
