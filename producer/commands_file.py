"""Reads commands from JSON Lines files, and reports what is wrong with each line that is not a valid command.

A line is `{"job": "place_order", "id": "optional job id", "args": {…}}`. `run_command` reads files and standard input
with it. Every line that is not blank gives one item, in order, and max one line is in memory at a time. No line,
whatever is in it, stops the reading. A refusal never repeats the content of the line, which may be private.

A line without an id gets one. In a file it is made from the file's name (without its directories), the line's number
and its text. So a file that is run twice reports duplicates, while two equal lines are two jobs; a renamed file, or
lines that moved, are new jobs. On standard input (source `-`) ids are random, since two pipes are not the same file.

If an object has a key twice, the last value counts, as in Python, PostgreSQL and JavaScript.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO

from pydantic_core import from_json

from tidepool import MAX_PAYLOAD_BYTES, JobType, Rejected, Submission, check_id
from worker.jobs import JOBS

MAX_LINE_BYTES = MAX_PAYLOAD_BYTES - 1024
"""Max bytes of a line; longer ones are refused. It is the 1 MiB that a worker decodes, less the queue's overhead."""
STANDARD_INPUT = "-"
_PIECE_BYTES = 65_536
_MOST_FIELD_CHARACTERS = 60
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KEYS = frozenset(("job", "id", "args"))
_OTHER_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\x00\x00\x00": "UTF-32",
    b"\x00\x00\x00{": "UTF-32",
    b"{\x00": "UTF-16",
    b"\x00{": "UTF-16",
}
"""First bytes of other file formats that people may take for a commands file. No JSON in UTF-8 begins with them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that is not a valid command, and the reason. *field* is empty if the error concerns no single field."""

    line: int
    field: str
    reason: str


class _RefusedError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def other_format(head: bytes) -> str | None:
    """Return the name of a file's format (gzip, UTF-16 …), found by its first bytes; None if it may be UTF-8 text."""
    return next((name for start, name in _OTHER_FORMATS.items() if head.startswith(start)), None)


def read_commands(stream: BinaryIO | Iterable[bytes], *, source: str) -> Iterator[Submission | Refusal]:
    """Yield a `Submission` (a job to enqueue) or a `Refusal` for every line of *stream* that is not blank.

    *stream* is a binary file or an iterable of lines. *source* is its name or path (`-`: standard input), from which
    the ids of lines without one are made. Raises only what reading the stream raises.
    """
    for number, line in enumerate(_lines(stream), 1):
        if line is None:
            yield Refusal(number, "", f"is longer than {MAX_LINE_BYTES} bytes")
            continue
        text = (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).rstrip()
        if text:
            yield _item(text, number, source)


def _lines(stream: BinaryIO | Iterable[bytes]) -> Iterator[bytes | None]:
    """Yield the lines of *stream*; None in place of a line of more than `MAX_LINE_BYTES`."""
    readline: Callable[[int], bytes] | None = getattr(stream, "readline", None)
    if readline is None:
        yield from (line if len(line.rstrip(b"\n")) <= MAX_LINE_BYTES else None for line in stream)
        return
    while line := readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
        else:
            _skip_rest(readline)
            yield None


def _skip_rest(readline: Callable[[int], bytes]) -> None:
    while (piece := readline(_PIECE_BYTES)) and not piece.endswith(b"\n"):
        pass


def _item(text: bytes, number: int, source: str) -> Submission | Refusal:
    try:
        entry = _entry(text)
        job_type = _job_type(entry)
        job_id = _given_id(entry) if "id" in entry else _made_id(text, number, source)
        return Submission(job_id, job_type.name, _checked_args(entry, job_type))
    except _RefusedError as refused:
        return Refusal(number, refused.field, refused.reason)


def _entry(text: bytes) -> dict[str, object]:
    try:
        entry = from_json(text.decode(), allow_inf_nan=False)
    except UnicodeDecodeError as error:
        raise _RefusedError("", f"is not UTF-8 at byte {error.start + 1}") from None
    except ValueError as error:
        fault = str(error).replace(" at line 1 column ", " at byte ")
        raise _RefusedError("", f"is not JSON: {fault}") from None
    _check_keys(entry)
    return entry


def _check_keys(entry: object) -> None:
    if not isinstance(entry, dict):
        raise _RefusedError("", "is not a JSON object")
    for key in entry:
        if key not in _KEYS:
            name = ascii(key)[1:-1][:_MOST_FIELD_CHARACTERS]
            raise _RefusedError(name, "is not known here; a command has job, id and args")


def _job_type(entry: dict[str, object]) -> JobType[Any]:
    if "job" not in entry:
        raise _RefusedError("job", "is missing")
    name = entry["job"]
    job_type = JOBS.get(name) if isinstance(name, str) else None
    if job_type is None:
        known = ", ".join(known.name for known in JOBS)
        raise _RefusedError("job", f"must be one of {known}")
    return job_type


def _given_id(entry: dict[str, object]) -> str:
    job_id = entry["id"]
    if not isinstance(job_id, str):
        raise _RefusedError("id", "must be text")
    try:
        check_id(job_id)
    except ValueError as error:
        raise _RefusedError("id", str(error)) from None
    return job_id


def _made_id(text: bytes, number: int, source: str) -> str:
    if source == STANDARD_INPUT:
        return uuid.uuid4().hex
    place = f"{PurePath(source).name}\0{number}\0".encode(errors="surrogateescape")
    return "file-" + hashlib.sha256(place + text).hexdigest()[:32]


def _checked_args(entry: dict[str, object], job_type: JobType[Any]) -> dict[str, object]:
    """Return the args of a line unchanged, after checking that they make a valid command.

    Defaults are not filled in: the worker does so.
    """
    if "args" not in entry:
        raise _RefusedError("args", "is missing")
    args = entry["args"]
    if not isinstance(args, dict):
        raise _RefusedError("args", "must be an object")
    command = job_type.parse(args)
    if isinstance(command, Rejected):
        raise _RefusedError(*_field_and_reason(command.detail))
    return args


def _field_and_reason(detail: str) -> tuple[str, str]:
    """Split a validation error into the field's name and the reason.

    The name is empty, and the reason the whole text, if the error concerns several fields or names none.
    """
    field, colon, reason = detail.partition(": ")
    return (field, reason) if colon and "; " not in detail else ("", detail)
