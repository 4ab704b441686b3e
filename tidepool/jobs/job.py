"""Defines a job as a worker holds it, and what an application declares about its job types.

An application declares a `JobType`: its name, its `Command`, which is the pydantic model of the arguments, and its
handler. Commands are strict: text is not accepted as a number, nor a number as a boolean, and unknown fields are
refused. Text must be storable: PostgreSQL cannot hold NUL, and UTF-8 has no lone surrogates.

Clients, the HTTP API, the queue and the ledger share one rule for job ids, `check_id`. An id becomes part of a Redis
key, a log field, a primary key in PostgreSQL, text on the operators' page and a segment of a URL. Natural keys such as
`or-p-BANK CHARGES` are allowed as well as random ids. Ids are compared code point by code point: `é` as one character
and as `e` with an accent are two ids.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, LiteralString, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails
from typing_extensions import TypeVar

from tidepool.jobs.outcomes import CommonReason, Failed, Reason, Rejected, Verdict
from tidepool.pool.connection import Connection as Transaction

__all__ = [
    "AnyJobType",
    "Command",
    "Job",
    "JobKey",
    "JobType",
    "JobTypes",
    "LeftOut",
    "Text",
    "Transaction",
    "check_id",
]

MAX_ID_CHARACTERS = 200
"""Max characters of an id. That fits into every place that is named above, and into an index of PostgreSQL."""
_DIGEST_CHARACTERS = 32
"""Hexadecimal digits of a digest, 128 bits: no two ids will have the same one."""
_REPLACEMENT = "\ufffd"
"""The character that decoders put in place of invalid bytes. If it were allowed, different bytes could be one id."""
_ESCAPED = re.compile(rf"~[0-9a-f]{{{_DIGEST_CHARACTERS}}}\Z")
"""Matches the end of every id that `_escaped_id` has escaped; no other id may end like that."""
MAX_FIELDS = 100
"""Max fields of a job's arguments: validating 100,000 unknown fields would block the worker for half a second."""
_PLAIN_ID = re.compile(r"[A-Za-z0-9_:-]+")
"""Matches most ids that are used, and none that `check_id` refuses except for its length; it takes less time."""
_STORABLE = r"^[^\x00]*$"
"""A regular expression for text without NUL characters."""
_MAX_ERRORS = 5
"""Max errors of one command that are explained; the others are only counted."""
_UNKNOWN_FIELD = "extra_forbidden"
"""The type of pydantic's error for an unknown field."""
_MAX_NAME_CHARACTERS = 60
"""Max characters of a field's name in an explanation: a sender can invent names of any length."""
_pattern_words: dict[str, str] = {}
"""The explanation, by pattern, for text that does not match it."""

JobKey: TypeAlias = tuple[str, int]
"""The primary key of a job's ledger row: its id, and when it was enqueued (Unix milliseconds), or `IDENTITY_MS`."""
IDENTITY_MS = -1
"""Stands in the key for the enqueue time of a job whose id is its identity, which has one effect however often it is
enqueued. Other ids are used again, as in arq: with a new enqueue time, an id is a new job."""

T = TypeVar("T")
C = TypeVar("C", bound="Command")
C_co = TypeVar("C_co", bound="Command", covariant=True, default="Command")


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


def describe_pattern(pattern: str, words: str) -> str:
    """Set the error text *words* for values that do not match the regular expression *pattern*; return *pattern*.

    Use the call as the `pattern` of a pydantic `Field`. Such a check takes a tenth of the time of a validator in
    Python, because pydantic matches patterns in Rust.
    """
    _pattern_words[pattern] = words
    return pattern


class _NotNull:
    """Makes an optional field refuse null, whose meaning would be unclear: a sender leaves it out instead."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


LeftOut = Annotated[T | None, _NotNull()]
"""The type of a field that a sender may leave out but may not set to null. It is None if it is left out."""


class Command(BaseModel):
    """The base class for the arguments of a job type: a strict, immutable pydantic model without unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    def require_exactly_one(self, first: str, second: str) -> None:
        """Raise `ValueError` unless exactly one of the fields *first* and *second* is set. For use in a validator."""
        if (getattr(self, first) is None) == (getattr(self, second) is None):
            raise ValueError(f"give exactly one of {first} and {second}")


Text = Annotated[str, Field(pattern=describe_pattern(_STORABLE, "has a NUL character"))]
"""The type of text that PostgreSQL can store. Commands add the length limits of their columns."""


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

    def set_key(self, job_type: "AnyJobType | None") -> None:
        """Set the job's key; *job_type* is its type.

        The id alone is the key of a job whose type is unknown, because another worker may know it as such a type.
        """
        is_identity = self.identity
        if is_identity is None:
            is_identity = job_type is None or job_type.identity
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


_Handler = Callable[[Transaction, Sequence[Job[C]]], Awaitable[Sequence[Verdict]]]


@dataclass(frozen=True, slots=True)
class JobType(Generic[C]):
    """A job type: its name in the queue, the model of its arguments, and the handler of its batches.

    The *handler* gets the open transaction and the jobs of a batch, and returns one verdict for each job, in order. It
    neither commits nor catches database errors, since the ledger does. *constraints* names the constraints of its
    tables that a job can break, each with the reason for which the job is rejected then. *grants* lists what the
    handler may do in PostgreSQL, each as a GRANT statement has it before TO: `"SELECT, INSERT ON orders"`.
    `migrate --roles` grants it to the role `tidepool_work`, which workers log in as in production. With *identity* a
    job's id is its identity: it has one effect for as long as the ledger keeps its row, however often it is enqueued.
    Without it, ids are used again as in arq: once neither a job nor a result of an id is in Redis, the id is a new job.
    """

    name: str
    command: type[C]
    handler: _Handler[C]
    constraints: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    grants: Sequence[LiteralString] = ()
    identity: bool = False

    def parse(self, content: object) -> C | Rejected:
        """Validate *content*, the decoded arguments of a job; return them as a command, or a rejection if invalid."""
        if isinstance(content, dict) and len(content) > MAX_FIELDS:
            return Rejected(CommonReason.INVALID, f"has more than {MAX_FIELDS} fields")
        try:
            return self.command.__pydantic_validator__.validate_python(content)
        except (ValidationError, RecursionError) as error:
            return _rejection_of(error)


AnyJobType: TypeAlias = JobType[Any]  # a handler takes its own kind of command only, so there is no common base


class JobTypes:
    """The job types of an application, by name. The constructor raises `ValueError` if two have the same name."""

    def __init__(self, types: Iterable[AnyJobType]) -> None:
        self._types: dict[str, AnyJobType] = {}
        for job_type in types:
            if job_type.name in self._types:
                raise ValueError(f"two kinds of jobs are called {job_type.name!r}")
            self._types[job_type.name] = job_type

    def get(self, name: str) -> AnyJobType | None:
        """Return the job type with this *name*, or None if there is none."""
        return self._types.get(name)

    def __iter__(self) -> Iterator[AnyJobType]:
        return iter(self._types.values())


def _rejection_of(error: ValidationError | RecursionError) -> Rejected:
    """Convert the error of a command's validation to a rejection, which names wrong fields but repeats no values."""
    if isinstance(error, RecursionError):
        return Rejected(CommonReason.INVALID, "is nested too deeply")
    details = error.errors(include_input=False, include_url=False)
    shown = [_explain(detail) for detail in details[:_MAX_ERRORS]]
    more = len(details) - len(shown)
    text = "; ".join(shown) + (f"; and {more} more" if more else "")
    return Rejected(CommonReason.INVALID, text, is_newer=all(detail["type"] == _UNKNOWN_FIELD for detail in details))


def _explain(detail: ErrorDetails) -> str:
    """Return the explanation of one error: the field's name, escaped and cut, and what is wrong with it."""
    name = ascii(".".join(map(str, detail["loc"])))[1:-1][:_MAX_NAME_CHARACTERS]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        message = _pattern_words.get(detail.get("ctx", {})["pattern"], message)
    return f"{name}: {message}" if name else message


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
