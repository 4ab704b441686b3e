"""Decodes jobs, and names what a worker needs to understand them: functions and deserializers."""

from enum import Enum
from typing import Any, TypeAlias, cast

from arq.jobs import Deserializer, SerializationError, deserialize_job_raw

from tidepool.queue.wire import LATEST_MS, receive

_MAX_NAME_CHARACTERS = 200
_LARGEST = 1_000_000
"""The largest number of an attempt that is believed."""


_Decoded: TypeAlias = tuple[str, tuple[object, ...], dict[str, object], int | None, int]


def decode(payload: bytes, deserializer: Deserializer | None) -> _Decoded:
    """Decode a job; return its function, positional and keyword arguments, first attempt, and enqueue time in Unix ms.

    Raises `SerializationError` if that is not possible, or if the fields are not what arq writes: any program may have
    written them.
    """
    decoded: tuple[Any, ...] = deserialize_job_raw(payload, deserializer=deserializer)
    function, args, kwargs, attempt, enqueued_ms = decoded
    if deserializer is receive or (
        type(function) is str
        and type(args) in (list, tuple)
        and type(kwargs) is dict
        and attempt is None
        and type(enqueued_ms) is int
        and 0 <= enqueued_ms <= LATEST_MS
    ):
        return cast("_Decoded", decoded)  # as nearly all are: the checks below take longer
    fits = isinstance(function, (str, Enum)) and isinstance(args, (tuple, list)) and isinstance(kwargs, dict)
    is_dated = isinstance(enqueued_ms, int) and 0 <= enqueued_ms <= LATEST_MS
    is_counted = attempt is None or (isinstance(attempt, int) and 0 <= attempt <= _LARGEST)
    if not (fits and is_dated and is_counted):
        raise SerializationError("unable to deserialize job") from TypeError("it is no job as arq writes them")
    return cast("_Decoded", decoded)


def name_of_function(name: str | Enum) -> str:
    """Return a function's name as text, cut to 200 characters; applications also use members of enums as names."""
    return (str(name.value) if isinstance(name, Enum) else name)[:_MAX_NAME_CHARACTERS]


def name_of_deserializer(deserializer: Deserializer | None) -> str:
    """Return a name for a function that decodes jobs, the same in each process; None stands for arq's own."""
    if deserializer is None:
        return "pickle.loads"
    named = deserializer if hasattr(deserializer, "__qualname__") else type(deserializer)
    return f"{named.__module__}.{named.__qualname__}"
