"""The input of the client: one job to enqueue.

The sources of commands (`workload`, `commands_file`) make submissions, `client` enqueues them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to enqueue. *fields* must be JSON values (money as text); they are stored unchanged."""

    id: str
    function: str
    fields: dict[str, object]
