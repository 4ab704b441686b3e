"""Defines `Submission`, a job to enqueue, which is the input of `tidepool.client`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to enqueue: its id, the name of its function, and its arguments.

    The values of *fields* must be JSON values (money as text); they are stored unchanged. *identity* is whether the id
    is the job's identity, so that it has one effect for as long as the ledger keeps its row; None: its type decides.
    *enqueued_ms* is when the job was enqueued (Unix milliseconds), None for now: a requeued job stays the same job.
    *due_ms* is when the job may run first (Unix milliseconds); None: at once.
    """

    id: str
    function: str
    fields: dict[str, object]
    identity: bool | None = None
    enqueued_ms: int | None = None
    due_ms: int | None = None
