"""Reading the lines of a commands file: all of them, one that must be refused, or the ids of good ones."""

import io
import json
from typing import Any

from producer.commands_file import CommandReader, RefusedLine
from tidepool.jobs.submission import Submission

USER = {"username": "ada", "email": "ada@example.org", "full_name": "Ada Lovelace"}
USER_LINE = json.dumps({"job": "create_user", "args": USER}).encode()


def read(content: bytes, source: str = "commands.jsonl") -> list[Submission | RefusedLine]:
    """Read a whole file."""
    return list(CommandReader.of_lines(io.BytesIO(content), source=source))


def refusal(content: bytes | dict[str, Any]) -> RefusedLine:
    """Read one line that must be refused."""
    (item,) = read(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert isinstance(item, RefusedLine)
    return item


def ids(content: bytes, source: str = "commands.jsonl") -> list[str]:
    """Read lines that must all be accepted; returns their ids."""
    return [item.id for item in read(content, source) if isinstance(item, Submission)]
