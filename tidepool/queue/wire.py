"""Encodes and decodes jobs and results in the format in which arq stores them in Redis, but as JSON.

A job is the value of `arq:job:{id}`, its id a member of the queue's sorted set (score: due time, Unix ms):

    {"f": "create_user",        the function
     "a": [],                   positional arguments: none, or one object that holds the fields
     "k": {"username": …},      keyword arguments: the command's fields
     "t": null,                 arq's job_try, the try to begin with
     "et": 1764000000000,       when it was enqueued, Unix ms
     "identity": true}          whether its id is its identity; left out: its type decides. arq does not read it

A result is the value of `arq:result:{id}`, which has these fields and more: `s` is whether the job succeeded, and `r`
the result. Nothing is pickled: a reader of Redis's bytes must not run code from them. An exception as a result travels
as its class's name and its text, and comes back as the same class where arq's client needs that (a cancelled job), else
as `RuntimeError`.

Any arq client can talk to the service with `serialize` and `deserialize` as its `job_serializer` and
`job_deserializer`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, NotRequired, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import PydanticSerializationError, from_json, to_json
from typing_extensions import TypedDict

MAX_PAYLOAD_BYTES = 1_048_576
"""Max bytes of an encoded job: the client refuses a larger one, and a worker never reads one from Redis."""
MAX_KEPT_BYTES = 65_536
"""Max bytes of a job whose arguments are kept in its result and its ledger row; a larger one cannot be requeued."""
_ERROR = "!error"
LATEST_MS = 253_402_300_799_999
"""The last millisecond that Python's datetime can hold."""
_REVIVED = {"CancelledError": asyncio.CancelledError, "TimeoutError": TimeoutError}


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
        error = _REVIVED.get(result[_ERROR], RuntimeError)
        envelope["r"] = error(result.get("text", ""))
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


def _as_error(value: object) -> dict[str, str]:
    if isinstance(value, BaseException):
        return {_ERROR: type(value).__name__, "text": str(value)}
    raise PydanticSerializationError(f"{type(value).__name__} has no place in JSON")


def now_ms() -> int:
    """Return the current time in Unix milliseconds, the unit of arq's wire format."""
    return time.time_ns() // 1_000_000
