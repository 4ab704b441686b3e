"""A job as it came out of the queue this time."""

from dataclasses import dataclass
from typing import Any

from tidepool.jobs.command import Command
from tidepool.jobs.outcomes import Failed, Rejected


@dataclass(slots=True)
class Delivery:
    """One attempt at a job, from the engine through a batch to the ledger. Not frozen: that costs time."""

    id: str
    function: str
    command: Command | Rejected | Failed
    """The validated content, or what is decided already: what does not validate is rejected from the start."""
    content: Any
    """The decoded content as it was sent, for the ledger to keep where the job may be enqueued again."""
    attempt: int
    last_try: bool
    enqueued_at_ms: int
    due_at_ms: int
    """When it could run first: when it was enqueued, or the end of its delay."""
    taken_at_ms: int
    taken_ns: int
    """The same moment on the clock of `time.perf_counter_ns`, which later durations are measured from."""
    left_ns: int = 0
    """When its batch left the batcher, on the same clock; 0 where no batcher has had it."""
    looked_again: bool = False
    """Whether it was found unresolved once already and has waited for the batches that were under way then."""

    @property
    def queue_us(self) -> int:
        """How long it was due before a worker took it; clocks of two machines may differ, so never negative."""
        return max(0, self.taken_at_ms - self.due_at_ms) * 1000

    @property
    def batch_us(self) -> int:
        """How long it was in the batcher until its batch left."""
        return max(0, self.left_ns - self.taken_ns) // 1000

    def waited_us(self, now_ns: int) -> int:
        """How long ago its batch left the batcher."""
        return (now_ns - (self.left_ns or self.taken_ns)) // 1000
