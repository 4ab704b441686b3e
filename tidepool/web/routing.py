"""Defines what the routers share: their base class, the type of a row's id in a path, and the URL of a job."""

from collections.abc import Callable
from typing import Annotated, Any, Unpack
from urllib.parse import quote

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict

GREATEST_ID = 2**63 - 1
"""The largest `bigint` of PostgreSQL, the type of all row ids."""
RowId = Annotated[int, Path(ge=1, le=GREATEST_ID)]


class Body(BaseModel):
    """The body of a request or a response.

    OpenAPI shows it under the name of its class, without the underscore of a private one.
    """

    def __init_subclass__(cls, **options: Unpack[ConfigDict]) -> None:
        cls.__name__ = cls.__qualname__ = cls.__name__.removeprefix("_")
        super().__init_subclass__(**options)


class Router(APIRouter):
    """A FastAPI router. Its routes answer with and without a slash at the end, if their path has no parameters.

    A route has the name of its function, without the underscore of a private one: OpenAPI's operation ids and summaries
    are made of these names.
    """

    def add_api_route(self, path: str, endpoint: Callable[..., object], **options: Any) -> None:
        """Add a route as FastAPI does, and its twin with or without the slash at the end of the path."""
        options["name"] = options.get("name") or endpoint.__name__.removeprefix("_")
        super().add_api_route(path, endpoint, **options)
        if "{" not in path and path != "/":
            other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
            options["include_in_schema"] = False
            super().add_api_route(other, endpoint, **options)


def job_url(job_id: str) -> str:
    """Return the path of the URL under which a job and its outcome can be read."""
    return f"/jobs/{quote(job_id, safe='')}"
