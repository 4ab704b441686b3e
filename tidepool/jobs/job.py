"""Defines a job as a worker holds it, and which text can be a job's id.

Clients, the HTTP API, the queue and the ledger share one rule for job ids, `check_id`. An id becomes part of a Redis
key, a log field, a primary key in PostgreSQL, text on the operators' page and a segment of a URL. Natural keys such as
`or-p-BANK CHARGES` are allowed as well as random ids. Ids are compared code point by code point: `é` as one character
and as `e` with an accent are two ids.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

from tidepool.jobs.arguments import Command
from tidepool.jobs.outcomes import Failed, Outcome, Rejected

MAX_ID_CHARACTERS = 200
"""Max characters of an id. That fits into every place that is named above, and into an index of PostgreSQL."""
_DIGEST_CHARACTERS = 32
"""Hexadecimal digits of a digest, 128 bits: no two ids will have the same one."""
_REPLACEMENT = "\ufffd"
"""The character that decoders put in place of invalid bytes. If it were allowed, different bytes could be one id."""
_ESCAPED = re.compile(rf"~[0-9a-f]{{{_DIGEST_CHARACTERS}}}\Z")
"""Matches the end of every id that `_escaped_id` has escaped; no other id may end like that."""
_PLAIN_ID = re.compile(r"[A-Za-z0-9_:-]+")
"""Matches most ids that are used, and none that `check_id` refuses except for its length; it takes less time."""

JobKey: TypeAlias = tuple[str, int]
"""The primary key of a job's ledger row: its id, and when it was enqueued (Unix milliseconds), or `IDENTITY_MS`."""
IDENTITY_MS = -1
"""Stands in the key for the enqueue time of a job whose id is its identity, which has one effect however often it is
enqueued. Other ids are used again, as in arq: with a new enqueue time, an id is a new job."""

C_co = TypeVar("C_co", bound=Command, covariant=True, default=Command)


def check_id(job_id: str) -> None:
    """Raise `ValueError` with the reason if *job_id* cannot be a job's id.

    An id has 1 to 200 printable characters: no control or format characters, no surrogates, and no whitespace except
    spaces inside, since HTTP strips those at the ends. It is not `.` or `..`, which browsers resolve in a path even if
    they are escaped: `/jobs/./requeue` is the call for all jobs. It does not end with `~` and 32 hexadecimal digits,
    which mark the ids that the ledger has escaped.
    """
    if not 1 <= len(job_id) <= MAX_ID_CHARACTERS:
        raise ValueError(f"must have 1 to {MAX_ID_CHARACTERS} characters")
    if _PLAIN_ID.fullmatch(job_id):
        return
    if not job_id.isprintable() or _REPLACEMENT in job_id:
        raise ValueError("must have printable characters only")
    if job_id != job_id.strip(" "):
        raise ValueError("must have no space at its ends")
    if job_id in (".", ".."):
        raise ValueError("must have more than dots: in a URL . and .. are no names")
    if "~" in job_id and _ESCAPED.search(job_id):
        raise ValueError("must have another end: ~ and 32 hexadecimal digits mark an id that was escaped")


@dataclass(slots=True, eq=False)
class Job(Generic[C_co]):
    """A job that this worker process holds, from its claim in Redis until Redis has recorded how the attempt ended.

    The claim creates the object from data in Redis. Decoding adds the function and its arguments, validation adds the
    *command*, and the ledger makes its row from the object. Handlers use only *id* and *command*.

    Two jobs are equal only if they are the same object: a process may claim a job again while it still runs it. The
    class is not frozen, because that would double the time to make an object.
    """

    queue_id: str
    """The job's id in Redis. Bytes that are not UTF-8 are decoded to lone surrogates."""
    owner: str = ""
    """The owner of the lease on the job: the name under which this process holds it in Redis."""
    payload: bytes | int | None = field(default=None, repr=False)
    """The job's content in Redis. None: it has expired or is missing. A number: its size in bytes, over the limit."""
    due_ms: int = 0
    """When it could first run (Unix milliseconds): when it was enqueued, or the end of its delay."""
    attempt: int = 1
    """Number of this attempt, from 1."""
    is_retry: bool = False
    """Whether Redis keeps a count of failed attempts for it."""
    lapses: int = 0
    """How many owners, which are worker processes, lost their lease while they held the job."""
    is_aborted: bool = False
    """Whether a client has asked to abort it."""
    started_ms: int = 0
    """When this process claimed the job (Unix milliseconds)."""
    started_ns: int = 0
    """The same moment on the clock of `time.perf_counter_ns`, from which later durations are measured."""

    function: str = "<unknown>"
    enqueued_ms: int = 0
    """When it was enqueued (Unix milliseconds). A redelivery repeats it."""
    identity: bool | None = None
    """Whether its id is its identity, if its content says so; None: its type decides."""
    args: tuple[object, ...] = field(default=(), repr=False)
    kwargs: dict[str, object] = field(default_factory=dict, repr=False)
    content: object = field(default=None, repr=False)
    """The decoded arguments as one value, for validation and for the ledger, which keeps them for a requeue."""
    is_large: bool = False
    """Whether the job is so large that its arguments are dropped as soon as they are no longer needed."""
    is_cron: bool = False
    is_typed: bool = False
    """Whether its function is a declared job type, whose effect is exactly-once, and no plain function."""
    context: dict[Any, Any] | None = field(default=None, repr=False)
    """arq's ctx dict of the attempt, which functions and hooks get; None before the attempt, and if no one needs it."""
    has_ended: bool = False
    """Whether it is decided how the attempt ends."""
    error: BaseException | None = None
    """Why the job has failed for good; None while it has not."""
    is_running: bool = False
    """Whether its function is running, so that a client's abort cancels it."""
    has_begun: bool = False
    """Whether it is a job of a plain function that has begun in this attempt."""
    is_completing: bool = False
    """Whether its function is in the block of `complete`, or has left it and does not know whether that was committed.
    """
    settled: Outcome | None = None
    """The outcome of a plain function's job that is committed in the ledger, once it is known to this attempt."""

    id: str = field(init=False)
    """The job's id in the ledger: *queue_id* if `check_id` accepts it, else an escaped form of it."""
    key: JobKey = field(init=False, repr=False)
    """The primary key of its ledger row. Set by `set_key` before the job is submitted."""
    command: C_co = field(init=False, repr=False)
    """The validated arguments. Not set if *decided* is set."""
    decided: Rejected | Failed | None = None
    """The outcome, if it is known before the handler is called; None otherwise."""
    is_last_attempt: bool = False
    """Whether the job is not run again if this attempt does not lead to an outcome: it is failed or rejected then."""
    left_ns: int = 0
    """When its batch left the batcher, which is when it started (`time.perf_counter_ns`). 0: it has not."""
    has_looked_again: bool = False
    """Whether the handler has returned `Unresolved` for it, and the batches that were running then have ended."""

    def __post_init__(self) -> None:
        try:
            check_id(self.queue_id)
            self.id = self.queue_id
        except ValueError:
            self.id = _escaped_id(self.queue_id)

    def set_key(self, *, is_identity: bool) -> None:
        """Set the job's key. *is_identity* is whether its id is its identity if its content does not say so.

        That is so for its type, or if the type is unknown, because another worker may know it as such a type.
        """
        is_identity = is_identity if self.identity is None else self.identity
        self.key = (self.id, IDENTITY_MS if is_identity else self.enqueued_ms)

    @property
    def ref(self) -> str:
        """The job's name in arq's results and log lines."""
        return self.function if self.is_cron else f"{self.queue_id}:{self.function}"

    @property
    def queue_us(self) -> int:
        """Microseconds that the job waited in the queue, from when it was due until this worker claimed it.

        0 if the difference is negative because clocks differ.
        """
        return max(0, self.started_ms - self.due_ms) * 1000

    @property
    def batch_us(self) -> int:
        """Microseconds from the job's claim by this worker to the start of its batch; 0 if that has not started."""
        return max(0, self.left_ns - self.started_ns) // 1000

    def waited_us(self, now_ns: int) -> int:
        """Return the microseconds from the start of the job's batch to *now_ns*, a reading of `time.perf_counter_ns`.

        If the batch has not started, the time is counted from the claim of the job.
        """
        return (now_ns - (self.left_ns or self.started_ns)) // 1000

    def forget_arguments(self) -> None:
        """Drop the decoded arguments if the job is large, to save memory: they may take fifty times its payload."""
        if self.is_large:
            assert isinstance(self.payload, bytes)
            self.args, self.kwargs = (f"left out: {len(self.payload)} bytes",), {}
            self.content = None


def _escaped_id(job_id: str) -> str:
    """Return the id under which the ledger keeps a job whose id `check_id` does not accept.

    It is cut and escaped, and ends with `~` and a digest of the whole id, so that different ids stay different.
    """
    digest = hashlib.sha256(job_id.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{_readable(job_id)[: MAX_ID_CHARACTERS - _DIGEST_CHARACTERS - 1]}~{digest}"


def _readable(job_id: str) -> str:
    if job_id.isprintable() and _REPLACEMENT not in job_id:
        return job_id.strip(" ")
    return ascii(job_id[:MAX_ID_CHARACTERS])[1:-1].strip(" ")
