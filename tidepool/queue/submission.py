"""What is handed to the queue.

The sources of commands (`workload`, `commands_file`) make submissions, `client` enqueues them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to enqueue. *fields* are JSON-ready (money as text) and go into the queue exactly as they are."""

    id: str
    function: str
    fields: dict[str, object]
