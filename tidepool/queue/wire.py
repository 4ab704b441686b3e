"""Defines what is in Redis: the names of all keys, and the JSON of jobs and results. Names and fields are arq's.

No other module and no Lua script contains the name of a key. The scripts get the prefixes as local variables (see
`scripts`), and all other keys as KEYS. Keys of one job are a prefix and the job's id:

    arq:job:{id}          string  the job: function, arguments and enqueue time
    arq:in-progress:{id}  string  who runs the job; expires
    arq:retry:{id}        string  how many attempts have failed
    arq:cause:{id}        string  the error of the last failed attempt (Tidepool's)
    arq:result:{id}       string  the result, for as long as it is kept

`QueueKeys` has the keys of a queue, `FLEET` those of a fleet (the workers that share a PostgreSQL server).

A job's id is a member of the queue's sorted set (score: due time, Unix ms), and its value is:

    {"f": "create_user",        the function
     "a": [],                   positional arguments: none, or one object that holds the fields
     "k": {"username": …},      keyword arguments: the command's fields
     "t": null,                 arq's job_try, the try to begin with
     "et": 1764000000000,       when it was enqueued, Unix ms
     "identity": true}          whether its id is its identity; left out: its type decides. arq does not read it

A result is the value of `arq:result:{id}`, which has these fields and more: `s` is whether the job succeeded, and `r`
the result. Nothing is pickled: a reader of Redis's bytes must not run code from them. An exception as a result travels
as its class's name and its text, and comes back as the same class where arq's client needs that (a cancelled job), as
`Reject` for a rejected job, else as `RuntimeError`.

Any arq client can talk to the service with `serialize` and `deserialize` as its `job_serializer` and
`job_deserializer`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, NotRequired, cast

from arq.constants import (
    abort_jobs_ss,
    health_check_key_suffix,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypedDict

from tidepool.jobs.outcomes import Reject
from tidepool.jobs.submission import Submission

JOB = job_key_prefix
IN_PROGRESS = in_progress_key_prefix
RETRY = retry_key_prefix
CAUSE = "arq:cause:"
RESULT = result_key_prefix
ABORTS = abort_jobs_ss
"""A sorted set of the ids of jobs that a client asked to abort; the score is when, in Unix ms."""
RECEIPT = "tidepool:receipt:"
"""The prefix of the keys of stored replies of `enqueue.lua`, so that a call can be repeated; a random name follows."""

FLEET = (
    "tidepool:budget:{database}",
    "tidepool:budget:{database}:capacity",
    "tidepool:budget:{database}:restless",
)
"""The keys of a fleet; *database* is the URL of its PostgreSQL, without the password.

A hash, worker id → its last heartbeat, the connections that it holds, and how many of them PostgreSQL does not list by
its name; a string, the newest figures of the server's connections; and a string, until when shares may change, because
a worker has joined, left or got less.
"""

MAX_PAYLOAD_BYTES = 1_048_576
"""Max bytes of an encoded job: the client refuses a larger one, and a worker never reads one from Redis."""
MAX_KEPT_BYTES = 65_536
"""Max bytes of a job whose arguments are kept in its result and its ledger row; a larger one cannot be requeued."""
_ERROR = "!error"
LATEST_MS = 253_402_300_799_999
"""The last millisecond that Python's datetime can hold."""
_REVIVED = {"CancelledError": asyncio.CancelledError, "TimeoutError": TimeoutError}


class QueueKeys:
    """The names of the Redis keys of one queue. An *owner* is the name under which a worker process holds jobs.

    A worker holds jobs under a lease, a limited time that it renews. A *lapse* is the end of a lease that was not
    renewed.

    queue     sorted set  job id → due time, Unix ms; for a held job: when it is due again if nothing else puts it back
    owners    sorted set  owner → end of its lease, Unix ms
    held      sorted set  for one owner: job id → its due time before it was claimed
    lapses    hash        job id → number of owners that lost their lease while they held the job
    suspects  sorted set  id of a job with two lapses → due time

    A *dead letter* is a job that no worker understands and that was taken out of the queue. Its content, the value of
    `arq:job:{id}`, becomes the value of the key `dead_letter_prefix` + the id of its entry in the stream.

    dead_letters   stream      of each dead letter: `id` of the job, `due` (Unix ms), `function` and `reason`
    functions      sorted set  name of a function → until when a worker that has it counts as alive, Unix ms
    deserializers  sorted set  name of a function that decodes jobs → the same; both keys expire with their newest entry

    The outbox, a table in PostgreSQL, has the jobs that were enqueued in a transaction; a *relay* copies them here.

    relay          string      name of the worker process whose relay is at work; expires if it is not renewed
    refilled       string      "yes" if Redis has all jobs of the outbox that it should have, "no" while they are copied
                               again; missing after Redis has lost its data
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.owners = f"{queue}:owners"
        self.lapses = f"{queue}:lapses"
        self.suspects = f"{queue}:suspects"
        self.held_prefix = f"{queue}:held:"
        self.dead_letters = f"{queue}:dead-letters"
        self.dead_letter_prefix = f"{queue}:dead-letter:"
        self.functions = f"{queue}:functions"
        self.deserializers = f"{queue}:deserializers"
        self.relay = f"{queue}:relay"
        self.refilled = f"{queue}:refilled"

    @staticmethod
    def encode_id(job_id: str) -> bytes:
        """Return the bytes of a job's id in Redis, or of an owner's name."""
        return job_id.encode("utf-8", "surrogateescape")

    @staticmethod
    def decode_id(job_id: bytes) -> str:
        """Return a job's id or an owner's name as text; `encode_id` restores the same bytes, also if not UTF-8."""
        return job_id.decode("utf-8", "surrogateescape")

    def held(self, owner: str) -> str:
        """Return the key of the sorted set of the jobs that *owner*, a worker process, holds."""
        return self.held_prefix + owner

    def health_check(self, worker_name: str) -> str:
        """Return the key of a worker's health record, which `arq --check` reads."""
        return f"{self.queue}{health_check_key_suffix}:{worker_name}"


def encode(submission: Submission, enqueued_ms: int) -> bytes:
    """Encode a job that is enqueued at *enqueued_ms* (Unix milliseconds).

    Raises `PydanticSerializationError` for arguments that JSON cannot express.
    """
    envelope = {"f": submission.function, "a": (), "k": submission.fields, "t": None, "et": enqueued_ms}
    if submission.identity is not None:
        envelope["identity"] = submission.identity
    return serialize(envelope)


def serialize(envelope: Mapping[str, object]) -> bytes:
    """Encode a job or a result as JSON. Raises `PydanticSerializationError` for a value that JSON cannot express."""
    return to_json(envelope, fallback=_as_error)


def deserialize(payload: bytes) -> dict[str, object]:
    """Decode a job or a result from JSON. Raises `ValueError` if *payload* is not a JSON object.

    NaN and infinity are accepted: a job may be rejected because of them, and its result repeats its arguments.
    """
    envelope = from_json(payload)
    if not isinstance(envelope, dict):
        raise ValueError("is neither a job nor a result")  # noqa: TRY004  (the bytes are wrong, not the call)
    result = envelope.get("r")
    if isinstance(result, dict) and isinstance(result.get(_ERROR), str):
        envelope["r"] = _revived(result)
    return envelope


def receive(payload: bytes) -> dict[str, object]:
    """Decode the content of a job that a worker has claimed, and check the types of its fields, which arq does not.

    Raises `ValueError` with a text that says what is wrong.
    """
    try:
        return cast("dict[str, object]", _ENVELOPE.validator.validate_json(payload))
    except ValidationError as error:
        raise ValueError(_fault(error)) from None


def _fault(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return "is not JSON"
    return f"has no valid {first['loc'][0]!r}" if first["loc"] else "is not an object"


class _Envelope(TypedDict):
    """The fields of an encoded job: those that arq uses without checking their types, and one of ours."""

    f: str
    a: list[object]
    k: dict[str, object]
    t: Annotated[int, Field(ge=0, le=1_000_000)] | None
    et: Annotated[int, Field(ge=0, le=LATEST_MS)]
    identity: NotRequired[bool]


_ENVELOPE = TypeAdapter(with_config(ConfigDict(strict=True))(_Envelope))


def _revived(error: dict[str, object]) -> BaseException:
    """Return the error that `_as_error` has encoded, as one of a few classes."""
    match error:
        case {"reason": str(reason), "detail": str(detail)}:
            return Reject(reason, detail)
        case _:
            return _REVIVED.get(str(error[_ERROR]), RuntimeError)(error.get("text", ""))


def _as_error(value: object) -> dict[str, str]:
    if isinstance(value, Reject):
        rejected = value.rejected
        return {_ERROR: "Reject", "text": str(value), "reason": rejected.reason, "detail": rejected.detail}
    if isinstance(value, BaseException):
        return {_ERROR: type(value).__name__, "text": str(value)}
    raise PydanticSerializationError(f"{type(value).__name__} has no place in JSON")


def now_ms() -> int:
    """Return the current time in Unix milliseconds, the unit of arq's wire format."""
    return time.time_ns() // 1_000_000
