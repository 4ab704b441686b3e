"""Commands files: how the file is read line by line, and what is accepted."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from commands_files import USER, USER_LINE, ids, read

from producer.commands_file import MAX_LINE_BYTES, CommandReader, RefusedLine
from tidepool.cli import CommandError
from tidepool.jobs.submission import Submission


def test_a_line_becomes_a_submission_with_its_own_id_and_its_args_as_given() -> None:
    """Defaults are not filled in and money stays the text that it was: the worker reads the command again."""
    args = {"name": "Pan", "price": "12.50", "category": "Kitchen"}
    line = json.dumps({"job": "create_product", "id": "pan-1", "args": args}).encode()
    assert read(line) == [Submission("pan-1", "create_product", args, identity=True)]


def test_lines_end_as_they_do_on_any_system() -> None:
    """A final newline may be missing, a carriage return before it is whitespace, and U+2028 ends nothing."""
    separated = json.dumps(
        {"job": "create_user", "id": "c", "args": {**USER, "full_name": "A\u2028B"}}, ensure_ascii=False
    )
    lines = [b'{"job":"create_user","id":"a","args":%s}\r' % json.dumps(USER).encode(), separated.encode()]
    assert ids(b"\n".join(lines)) == ["a", "c"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_nothing_but_a_newline_ends_a_line(separator: str) -> None:
    """`str.splitlines` ends one at each of these: raw in a text or escaped, the line stays whole with its number."""
    full_name = f"A{separator}B"
    whole = {"job": "create_user", "id": "a", "args": {**USER, "full_name": full_name}}
    raw = separator >= " "  # below, JSON wants an escape
    text = "\n".join(json.dumps(whole, ensure_ascii=escaped) for escaped in ((True, False) if raw else (True,)))
    *items, last = read(f"{text}\nnonsense".encode())
    assert [full_name] * len(items) == [item.fields["full_name"] for item in items if isinstance(item, Submission)]
    assert isinstance(last, RefusedLine)
    assert len(items) + 1 == last.line


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (gzip.compress(USER_LINE), "gzip"),
        (bz2.compress(USER_LINE), "bzip2"),
        (lzma.compress(USER_LINE), "xz"),
        (b"\x28\xb5\x2f\xfd\x04", "zstd"),
        (b"PK\x03\x04\x14\x00", "zip"),
        *((USER_LINE.decode().encode(name), name[:6].upper()) for name in ("utf-16", "utf-16-le", "utf-16-be")),
        ("\ufeff".encode("utf-16-be") + USER_LINE.decode().encode("utf-16-be"), "UTF-16"),
        *((USER_LINE.decode().encode(name), name[:6].upper()) for name in ("utf-32", "utf-32-le", "utf-32-be")),
        ("\ufeff".encode("utf-32-be") + USER_LINE.decode().encode("utf-32-be"), "UTF-32"),
        (USER_LINE, None),
        (b"\xef\xbb\xbf" + USER_LINE, None),
        (b"\n\n" + USER_LINE, None),
        (b"", None),
        (b'"\xff"', None),
    ],
)
async def test_a_file_of_another_format_is_known_by_its_beginning(
    tmp_path: Path, content: bytes, found: str | None
) -> None:
    """Compressed, or in an encoding of another width: each of its lines would be refused for a reason of its own."""
    (path := tmp_path / "commands").write_bytes(content)
    reader = CommandReader.open(str(path))
    if found is None:
        await reader.take(1)
        return
    with pytest.raises(CommandError, match=f": is {found}, but must be JSON Lines in UTF-8$"):
        await reader.take(1)


def test_blank_lines_are_skipped_but_line_numbers_are_those_of_the_editor() -> None:
    """The second item stands on line 4, and that is the line to look at."""
    items = read(USER_LINE + b"\n\n  \t\r\nnonsense\n\n")
    assert [type(item) for item in items] == [Submission, RefusedLine]
    assert items[1] == RefusedLine(4, "", "is not JSON: expected ident at byte 2")


def test_an_empty_file_has_no_commands() -> None:
    """Neither has one of blank lines, nor one of a byte order mark."""
    assert read(b"") == read(b"\n \n") == read(b"\xef\xbb\xbf") == []


def test_a_byte_order_mark_is_tolerated_at_the_start_only() -> None:
    """Editors on Windows write one; in the middle of a file it is a fault."""
    first, second = read(b"\xef\xbb\xbf" + USER_LINE + b"\n\xef\xbb\xbf" + USER_LINE)
    assert isinstance(first, Submission)
    assert isinstance(second, RefusedLine)


def test_any_iterable_of_lines_is_read() -> None:
    """With or without newlines; the cap on a line's length holds here too."""
    items = list(CommandReader.of_lines([USER_LINE, USER_LINE + b"\n", b" " * (MAX_LINE_BYTES + 1)], source="-"))
    assert [type(item) for item in items] == [Submission, Submission, RefusedLine]


def test_the_last_of_two_equal_keys_counts() -> None:
    """Python, PostgreSQL and JavaScript do the same."""
    (item,) = read(b'{"job": "set_stock", "args": {"sku": "a", "sku": "b", "in_stock": true}}')
    assert isinstance(item, Submission)
    assert {"sku": "b", "in_stock": True} == item.fields
