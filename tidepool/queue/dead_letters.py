"""Lists the dead letters of a queue, puts them back into the queue, and deletes them.

A dead letter is a job that no worker understood for a time: it calls a function that none has, or none can decode it.
Redis keeps it without a limit of time, until somebody puts it back or deletes it. Its id is free meanwhile.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from tidepool.queue import scripts
from tidepool.queue.faults import RedisFault
from tidepool.queue.scripts import MOST_AT_ONCE
from tidepool.queue.wire import QueueKeys

_MAX_CHARACTERS = 500
"""Max characters of a function's name and of a reason; any program may have written longer ones."""


class DeadLetter(NamedTuple):
    """A dead letter, as operators see it."""

    number: str
    """Its id in the stream of dead letters, by which dead letters of one job id differ."""
    job_id: str
    function: str | None
    """Name of the job's function; None if the job could not be decoded."""
    reason: str
    since_ms: int
    """When the job became a dead letter, in Unix ms."""
    due_ms: int | None
    """When the job was due, in Unix ms; None if that is not known."""
    size: int
    """Bytes of the content."""


class DeadLetters:
    """The dead letters of one queue. Its methods raise the errors of Redis's client."""

    def __init__(self, redis: Redis, queue_name: str) -> None:
        self._redis = redis
        self._keys = QueueKeys(queue_name)
        self._script = scripts.load(redis, "dead_letters")

    async def count(self) -> int:
        """Return the number of dead letters."""
        return int(await self._redis.xlen(self._keys.dead_letters))

    async def oldest(self, limit: int, job_ids: Collection[str] = ()) -> list[DeadLetter]:
        """Return up to *limit* dead letters, the oldest first; if *job_ids* are given, only those of these jobs."""
        found: list[DeadLetter] = []
        async for page in self._pages(job_ids):
            found += page[: limit - len(found)]
            if len(found) == limit:
                break
        return found

    async def requeue(self, job_ids: Collection[str] = ()) -> list[str]:
        """Put dead letters back into the queue, due now, with all tries before them; return the ids of their jobs.

        Without *job_ids* all are put back. One whose id is that of a job in the queue stays a dead letter. A result
        that is kept under the same id is deleted.
        """
        return await self._end(job_ids, is_requeued=True)

    async def discard(self, job_ids: Collection[str] = ()) -> list[str]:
        """Delete dead letters with their contents, all of them without *job_ids*; return the ids of their jobs."""
        return await self._end(job_ids, is_requeued=False)

    async def _end(self, job_ids: Collection[str], *, is_requeued: bool) -> list[str]:
        ended: list[str] = []
        async for page in self._pages(job_ids):
            reply: bytes = await self._script(
                keys=[self._keys.queue, self._keys.dead_letters],
                args=[self._keys.dead_letter_prefix, int(is_requeued), *(letter.number for letter in page)],
            )
            ended += [letter.job_id for letter, answer in zip(page, reply, strict=True) if answer == ord("1")]
        return ended

    async def _pages(self, job_ids: Collection[str]) -> AsyncIterator[Sequence[DeadLetter]]:
        """Yield the dead letters, those of *job_ids* if there are any, in pages of up to `MOST_AT_ONCE`."""
        after, is_last = b"-", False
        while not is_last:
            entries: list[tuple[bytes, Mapping[bytes, bytes]]] = await self._redis.xrange(
                self._keys.dead_letters, min=after, count=MOST_AT_ONCE
            )
            is_last = len(entries) < MOST_AT_ONCE
            after = b"" if is_last else b"(" + entries[-1][0]
            named = [(number, fields) for number, fields in entries if b"id" in fields]
            asked = [one for one in named if not job_ids or QueueKeys.decode_id(one[1][b"id"]) in job_ids]
            if asked:
                yield await self._with_sizes(asked)

    async def _with_sizes(self, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[DeadLetter]:
        reading = self._redis.pipeline(transaction=False)
        for number, _ in entries:
            reading.strlen(self._keys.dead_letter_prefix + number.decode())
        sizes = await reading.execute(raise_on_error=False)
        for error in sizes:
            if isinstance(error, Exception) and RedisFault.of(error) is not RedisFault.WRONG_TYPE:
                raise error
        sized = zip(entries, sizes, strict=True)
        return [_letter(number, fields, size if isinstance(size, int) else 0) for (number, fields), size in sized]


def _letter(number: bytes, fields: Mapping[bytes, bytes], size: int) -> DeadLetter:
    due = fields.get(b"due", b"")
    return DeadLetter(
        number=number.decode(),
        job_id=QueueKeys.decode_id(fields[b"id"]),
        function=_text(fields.get(b"function", b"")) or None,
        reason=_text(fields.get(b"reason", b"")),
        since_ms=int(number.partition(b"-")[0]),
        due_ms=int(due) if due.isdigit() else None,
        size=size,
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")[:_MAX_CHARACTERS]
