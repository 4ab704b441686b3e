"""Defines what the paths of several routers have in common: the id of a row, and the URL of a job."""

from typing import Annotated
from urllib.parse import quote

from fastapi import Path

GREATEST_ID = 2**63 - 1
"""The largest `bigint` of PostgreSQL, the type of all row ids."""
RowId = Annotated[int, Path(ge=1, le=GREATEST_ID)]


def job_url(job_id: str) -> str:
    """Return the path of the URL under which a job and its outcome can be read."""
    return f"/jobs/{quote(job_id, safe='')}"
