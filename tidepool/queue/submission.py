"""A job that is to be enqueued.

The sources of commands (`workload`, `commands_file`) make submissions, `client` enqueues them.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to enqueue. *fields* are JSON-ready (money as text) and go into the queue exactly as they are."""

    id: str
    function: str
    fields: dict[str, Any]
