"""Acknowledges finished jobs in Redis, many in one round trip.

To acknowledge a job whose attempt has ended is to remove it from the queue and store its result, or to put it back to
be run again. While one call is under way, the next batch fills: a single job is acknowledged at once, those of a busy
worker by the hundred. A call that was interrupted is repeated until it succeeds, so a job whose effect is committed may
be acknowledged late, but is not run again here. An error that is not temporary is kept for the worker's loop, which
calls `check`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Release, RetryLater
from tidepool.queue.faults import Outage
from tidepool.queue.scripts import MOST_AT_ONCE, MOST_BYTES_AT_ONCE

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Done:
    """The way an attempt ended: the job is done. Its keys in Redis are deleted, and its result is kept for clients."""

    result: bytes = b""
    """The encoded result; empty if none is kept."""
    keep_ms: int = 0
    """How long Redis keeps the result, in milliseconds; 0: for ever."""
    success: bool = True
    mark_ms: int = 0
    """How long the job's in-progress key stays, in milliseconds, so that a cron job is not enqueued twice."""


class Lacks(StrEnum):
    """The reason why a worker cannot run a job: what it does not have, and another worker may have."""

    FUNCTION = "function"
    DESERIALIZER = "deserializer"
    ROOM = "room"
    """The job is larger than any that the worker reads."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """The way an attempt ended: the job was not understood and becomes a dead letter, out of the queue.

    It goes back into the queue instead if a live worker has announced that it has what this one *lacks*.
    """

    lacks: Lacks
    reason: str
    """Why the job was not understood, in one line."""
    function: str = ""
    """The name of the job's function; empty if it is not known."""


Ending = Done | RetryLater | Release | SetAside
"""How an attempt at a job ends; `finish.lua` records it in Redis."""


class _Leases(Protocol):
    async def finish(self, owner: str, finishes: Sequence[tuple[Job, Ending]]) -> list[bool]: ...


class Finisher:
    """Acknowledges ended jobs in Redis in batches; calls *acknowledged* with the jobs of each batch.

    To acknowledge a job is to remove it from the queue and store its result, or to put it back.
    """

    def __init__(self, leases: _Leases, outage: Outage, acknowledged: Callable[[Sequence[Job]], None]) -> None:
        self._leases = leases
        self._outage = outage
        self._acknowledged = acknowledged
        self._waiting: deque[tuple[Job, Ending]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._error: Exception | None = None

    def put(self, job: Job, ending: Ending) -> None:
        """Queue the acknowledgement of *job*: Redis will record how its attempt ended, as *ending* says.

        Acknowledgements are sent in batches, within an iteration of the event loop if none is under way.
        """
        self._waiting.append((job, ending))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="finisher")

    def check(self) -> None:
        """Raise the error that stopped the sending of acknowledgements, if there is one.

        Such an error is a bug, or means that Redis rejects the command.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def drain(self) -> None:
        """Wait until all queued acknowledgements of ended jobs have been sent, or an error has stopped them."""
        while self._sending is not None:
            await asyncio.shield(self._sending)

    async def _send(self) -> None:
        await asyncio.sleep(0)
        batch: list[tuple[Job, Ending]] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                await self._send_batch(batch)
        except Exception as error:  # noqa: BLE001  (raised by `check`; nobody waits for this task)
            self._waiting.extendleft(reversed(batch))
            self._error = error
        finally:
            self._sending = None

    async def _send_batch(self, batch: list[tuple[Job, Ending]]) -> None:
        owner = batch[0][0].owner
        held = await self._outage.outlast(lambda: self._leases.finish(owner, batch))
        if lost := held.count(False):
            log.warning("lease.lost", owner=owner, jobs=lost, at="finish")
        self._acknowledged([job for job, _ in batch])

    def _next_batch(self) -> list[tuple[Job, Ending]]:
        """Take the next acknowledgements that fit in one call: of one owner only, limited in number and bytes.

        After a lost lease, the queue may hold jobs of the old owner and of the new one.
        """
        batch = [self._waiting.popleft()]
        owner, size = batch[0][0].owner, _size(batch[0][1])
        while self._waiting and len(batch) < MOST_AT_ONCE and self._waiting[0][0].owner == owner:
            size += _size(self._waiting[0][1])
            if size > MOST_BYTES_AT_ONCE:
                break
            batch.append(self._waiting.popleft())
        return batch


def _size(ending: Ending) -> int:
    return len(ending.result) if isinstance(ending, Done) else 0
