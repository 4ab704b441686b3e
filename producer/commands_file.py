"""Reads commands (jobs to enqueue) from JSON Lines files, and reports what is wrong with each line that is not valid.

A line is `{"job": "place_order", "id": "optional job id", "args": {…}}`. Every line that is not blank gives one item,
in order, and max one line is in memory at a time. No line, whatever is in it, stops the reading. A refusal never
repeats the content of the line, which may be private.

A line without an id gets one. In a file it is made from the file's name (without its directories), the line's number
and its text. So a file that is run twice reports duplicates, while two equal lines are two jobs; a renamed file, or
lines that moved, are new jobs. On standard input (source `-`) ids are random, since two pipes are not the same file.

If an object has a key twice, the last value counts, as in Python, PostgreSQL and JavaScript.

A pipe may block at any line, so `CommandReader` reads in a thread: meanwhile the run enqueues the commands that have
come, and can be cancelled.
"""

import asyncio
import hashlib
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Self, TypeAlias

from pydantic_core import from_json

from tidepool import MAX_PAYLOAD_BYTES, MOST_AT_ONCE, JobType, Rejected, Submission, check_id
from tidepool.cli import CommandError
from worker.jobs import JOBS

MAX_LINE_BYTES = MAX_PAYLOAD_BYTES - 1024
"""Max bytes of a line; longer ones are refused. It is the 1 MiB that a worker decodes, less the queue's overhead."""
_STANDARD_INPUT = "-"
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
class RefusedLine:
    """A line of a commands file that is not a valid command, and the reason.

    *field* is the name of the wrong field; empty if the error concerns no single field.
    """

    line: int
    field: str
    reason: str


Item: TypeAlias = Submission | RefusedLine
"""What a line becomes: a job to enqueue, or the reason why it is not one."""


class _RefusedError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


class CommandReader:
    """Reads commands, or refusals of invalid lines, from an iterator that may block, such as a pipe.

    `take` reads in a thread; iterating over the reader reads in the caller's thread. The first `take` starts the
    thread, which reads at most 500 items ahead; from then on only the thread uses *items*. It is a daemon and is never
    joined, so the process can end while the thread waits for input.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unread = deque[Item]()
        self._has_room = threading.Event()
        self._has_items = asyncio.Event()
        self._notified = False
        """Whether the event loop was notified since it last looked. One notification costs more than reading a line."""
        self._ended = False
        self._error: Exception | None = None

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the commands file *path*, or standard input for `-`.

        Raises `CommandError` if the file cannot be opened. If it has another format than JSON Lines in UTF-8, or
        reading fails, `take` raises `CommandError`.
        """
        try:
            # Not sys.stdin: the interpreter closes that at its end, and would wait for the thread that reads it.
            stream = open(sys.stdin.fileno(), "rb", closefd=False) if path == _STANDARD_INPUT else Path(path).open("rb")  # noqa: SIM115
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        return cls(_commands(stream, path))

    @classmethod
    def of_lines(cls, stream: BinaryIO | Iterable[bytes], *, source: str) -> Self:
        """Return a reader of the commands in *stream*, a binary file or an iterable of lines.

        *source* is the name or path of the stream (`-`: standard input), from which the ids of lines without one are
        made. Reading raises only what the stream raises.
        """
        return cls(_items(stream, source))

    def __iter__(self) -> Iterator[Item]:
        """Return an iterator over the lines that are not blank: a `Submission`, to be enqueued, or a `RefusedLine`."""
        return self._items

    async def take(self, most: int) -> list[Item]:
        """Return the next items, at most *most*, each a command or a refused line; wait until there is one.

        An empty list means that there are no more. Raises the error that reading *items* raised, after the items before
        it.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._read, args=(self._loop,), name="commands", daemon=True).start()
        while True:
            self._notified = False  # before looking: what comes after that notifies again
            self._has_items.clear()
            ended = self._ended
            taken = [self._unread.popleft() for _ in range(min(most, len(self._unread)))]
            self._has_room.set()
            if taken or ended:
                break
            await self._has_items.wait()
        if not taken and self._error is not None:
            raise self._error
        return taken

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for item in self._items:
                self._unread.append(item)
                self._notify(loop)
                self._wait_for_room()
        except Exception as error:  # noqa: BLE001  (`take` raises it)
            self._error = error
        self._ended = True
        self._notify(loop)

    def _notify(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._notified:
            self._notified = True
            with suppress(RuntimeError):  # the loop is closed: nothing is taken any more
                loop.call_soon_threadsafe(self._has_items.set)

    def _wait_for_room(self) -> None:
        while len(self._unread) >= MOST_AT_ONCE:
            self._has_room.clear()
            if len(self._unread) >= MOST_AT_ONCE:
                self._has_room.wait()


def _commands(stream: BufferedReader, path: str) -> Iterator[Item]:
    """Yield the commands of *stream*, and close it at the end.

    Raises `CommandError` if it cannot be read or has another format than JSON Lines in UTF-8.
    """
    name = "standard input" if path == _STANDARD_INPUT else path
    try:
        with stream:
            if found := _other_format(stream.peek()):
                raise CommandError(f"{name}: is {found}, but must be JSON Lines in UTF-8")
            yield from _items(stream, path)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}") from None


def _other_format(head: bytes) -> str | None:
    """Return the name of a file's format (gzip, UTF-16 …), found by its first bytes; None if it may be UTF-8 text."""
    return next((name for start, name in _OTHER_FORMATS.items() if head.startswith(start)), None)


def _items(stream: BinaryIO | Iterable[bytes], source: str) -> Iterator[Item]:
    for number, line in enumerate(_lines(stream), 1):
        if line is None:
            yield RefusedLine(number, "", f"is longer than {MAX_LINE_BYTES} bytes")
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


def _item(text: bytes, number: int, source: str) -> Item:
    try:
        entry = _entry(text)
        job_type = _job_type(entry)
        job_id = _given_id(entry) if "id" in entry else _made_id(text, number, source)
        return Submission(job_id, job_type.name, _checked_args(entry, job_type), identity=True)
    except _RefusedError as refused:
        return RefusedLine(number, refused.field, refused.reason)


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
            raise _RefusedError(name, "is not a known key; a command has job, id and args")


def _job_type(entry: dict[str, object]) -> JobType[Any, Any]:
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
    if source == _STANDARD_INPUT:
        return uuid.uuid4().hex
    place = f"{PurePath(source).name}\0{number}\0".encode(errors="surrogateescape")
    return "file-" + hashlib.sha256(place + text).hexdigest()[:32]


def _checked_args(entry: dict[str, object], job_type: JobType[Any, Any]) -> dict[str, object]:
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
