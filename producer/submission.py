"""What is handed to the queue, and what may be a job's id.

The sources of commands (`workload`, `commands_file`) make submissions, `client` enqueues them.
"""

from dataclasses import dataclass
from typing import Any

MOST_ID_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to enqueue. *fields* are JSON-ready (money as text) and go into the queue exactly as they are."""

    id: str
    function: str
    fields: dict[str, Any]


def check_id(job_id: str) -> None:
    """Raise `ValueError` unless *job_id* can be a job's id: 1 to 200 printable characters, no whitespace, no mere dots.

    An id becomes a Redis key, a log field and a primary key in PostgreSQL: control characters and lone
    surrogates would break one or another of them. It becomes a step of a URL's path, too: `.` and `..` are
    resolved by browsers, even if they are escaped, and `/jobs/./requeue` is the call for all jobs.
    """
    if not 1 <= len(job_id) <= MOST_ID_CHARACTERS:
        raise ValueError(f"must have 1 to {MOST_ID_CHARACTERS} characters")
    if " " in job_id or not job_id.isprintable():
        raise ValueError("must have printable characters only, and no whitespace")
    if job_id in (".", ".."):
        raise ValueError("must have more than dots: in a URL . and .. are no names")
