"""Defines `Submission`, a job to enqueue, which is the input of `tidepool.client`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to enqueue: its id, the name of its function, and its arguments.

    The values of *fields* must be JSON values (money as text); they are stored unchanged.
    """

    id: str
    function: str
    fields: dict[str, object]
