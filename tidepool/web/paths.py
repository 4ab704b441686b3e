"""What the paths of several rooms have in common: a row's id, and the URL of a job."""

from typing import Annotated
from urllib.parse import quote

from fastapi import Path

GREATEST_ID = 2**63 - 1
"""Of a `bigint`."""
RowId = Annotated[int, Path(ge=1, le=GREATEST_ID)]


def job_url(job_id: str) -> str:
    """Return where a job can be read."""
    return f"/jobs/{quote(job_id, safe='')}"
