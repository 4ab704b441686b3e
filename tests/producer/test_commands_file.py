"""Commands files: what is accepted, what is refused and how it is told."""

import bz2
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.commands_file import MAX_LINE_BYTES, CommandReader, Refusal
from tidepool.cli import CommandError
from tidepool.jobs.job import MAX_ID_CHARACTERS, Job, check_id
from tidepool.queue import wire
from tidepool.queue.submission import Submission

USER = {"username": "ada", "email": "ada@example.org", "full_name": "Ada Lovelace"}
USER_LINE = json.dumps({"job": "create_user", "args": USER}).encode()


def read(content: bytes, source: str = "commands.jsonl") -> list[Submission | Refusal]:
    """Read a whole file."""
    return list(CommandReader.of_lines(io.BytesIO(content), source=source))


def refusal(content: bytes | dict[str, Any]) -> Refusal:
    """Read one line that must be refused."""
    (item,) = read(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert isinstance(item, Refusal)
    return item


def ids(content: bytes, source: str = "commands.jsonl") -> list[str]:
    """Read lines that must all be accepted; returns their ids."""
    return [item.id for item in read(content, source) if isinstance(item, Submission)]


def test_a_line_becomes_a_submission_with_its_own_id_and_its_args_as_given() -> None:
    """Defaults are not filled in and money stays the text that it was: the worker reads the command again."""
    args = {"name": "Pan", "price": "12.50", "category": "Kitchen"}
    line = json.dumps({"job": "create_product", "id": "pan-1", "args": args}).encode()
    assert read(line) == [Submission("pan-1", "create_product", args)]


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
    assert isinstance(last, Refusal)
    assert len(items) + 1 == last.line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\x00", "is not JSON: expected value at byte 1"),
        (b"\x00" * 5000, "is not JSON: expected value at byte 1"),
        (USER_LINE + b"\x00", "is not JSON: trailing characters at byte"),
        (USER_LINE.replace(b"Ada", b"A\x00a"), "is not JSON: control character"),
        (USER_LINE.replace(b"Ada", b"A\\u0000a"), "has a NUL character"),
        (USER_LINE.replace(b"username", b"user\\u0000"), "username: Field required"),
    ],
)
def test_a_nul_refuses_its_line_alone(line: bytes, reason: str) -> None:
    """As the rest of a file that a crash has left with zeros; raw or escaped."""
    before, refused, after = read(b"\n".join([USER_LINE, line, USER_LINE]))
    assert isinstance(before, Submission)
    assert isinstance(after, Submission)
    assert isinstance(refused, Refusal)
    assert 2 == refused.line
    assert refused.reason.startswith(reason)


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
    assert [type(item) for item in items] == [Submission, Refusal]
    assert items[1] == Refusal(4, "", "is not JSON: expected ident at byte 2")


def test_an_empty_file_has_no_commands() -> None:
    """Neither has one of blank lines, nor one of a byte order mark."""
    assert read(b"") == read(b"\n \n") == read(b"\xef\xbb\xbf") == []


def test_a_byte_order_mark_is_tolerated_at_the_start_only() -> None:
    """Editors on Windows write one; in the middle of a file it is a fault."""
    first, second = read(b"\xef\xbb\xbf" + USER_LINE + b"\n\xef\xbb\xbf" + USER_LINE)
    assert isinstance(first, Submission)
    assert isinstance(second, Refusal)


def test_any_iterable_of_lines_is_read() -> None:
    """With or without newlines; the cap on a line's length holds here too."""
    items = list(CommandReader.of_lines([USER_LINE, USER_LINE + b"\n", b" " * (MAX_LINE_BYTES + 1)], source="-"))
    assert [type(item) for item in items] == [Submission, Submission, Refusal]


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b'"\xff"', "", "is not UTF-8 at byte 2"),
        (b'{"job": "create_user", ', "", "is not JSON: EOF while parsing a value at byte 22"),
        (b'{"job": NaN}', "", "is not JSON: expected value at byte 9"),
        (b'{"job": -Infinity}', "", "is not JSON: invalid number at byte 10"),
        (b"[" * 10_000, "", "is not JSON: recursion limit exceeded at byte 202"),
        (b"[1]", "", "is not a JSON object"),
        (b"null", "", "is not a JSON object"),
        ({"job": "create_user", "arg": USER}, "arg", "is not a known key; a command has job, id and args"),
        ({"job": "create_user", "\x00" * 99: 1}, "\\x00" * 15, "is not a known key; a command has job, id and args"),
        ({"args": USER}, "job", "is missing"),
        ({"job": 7, "args": USER}, "job", "must be one of "),
        ({"job": ["create_user"], "args": USER}, "job", "must be one of "),
        ({"job": "drop_table", "args": USER}, "job", "must be one of "),
        ({"job": "create_user"}, "args", "is missing"),
        ({"job": "create_user", "args": [USER]}, "args", "must be an object"),
        ({"job": "create_user", "id": 7, "args": USER}, "id", "must be text"),
        ({"job": "create_user", "id": None, "args": USER}, "id", "must be text"),
        ({"job": "create_user", "id": "", "args": USER}, "id", "must have 1 to 200 characters"),
        ({"job": "create_user", "id": " a", "args": USER}, "id", "must have no space at its ends"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_command_is_refused_with_the_field_and_the_reason(
    line: bytes | dict[str, Any], field: str, reason: str
) -> None:
    """The author of the file can find the fault from these words alone."""
    refused = refusal(line)
    assert (refused.line, refused.field) == (1, field)
    assert refused.reason.startswith(reason)


def test_the_reason_for_an_unknown_job_names_the_known_ones() -> None:
    """A misspelt name is the likeliest fault of all."""
    assert refusal({"job": "create_usr"}).reason.endswith(
        "create_user, create_product, place_order, update_user, set_stock"
    )


def test_what_the_command_refuses_is_reported_with_its_field() -> None:
    """One fault: the field apart. Several, or one that is of no single field: the whole text as the reason."""
    assert refusal({"job": "create_user", "args": {**USER, "email": "ada"}}) == Refusal(
        1, "email", "must have one @, no spaces, and something on both sides"
    )
    assert refusal({"job": "create_user", "args": {"email": "ada@example.org"}}) == Refusal(
        1, "", "username: Field required; full_name: Field required"
    )
    assert refusal({"job": "set_stock", "args": {"in_stock": True}}) == Refusal(
        1, "", "give exactly one of product_id and sku"
    )
    assert (
        refusal({"job": "create_user", "args": {**USER, "is_active": None}}).reason == "Input should be a valid boolean"
    )


def test_money_that_is_an_inexact_json_number_is_refused() -> None:
    """If a float may have rounded it; 12.5 is exact."""
    product = {"name": "Pan", "price": 12.5, "category": "Kitchen"}
    (taken,) = read(json.dumps({"job": "create_product", "args": product}).encode())
    assert isinstance(taken, Submission)
    assert product == taken.fields
    refused = refusal({"job": "create_product", "args": {**product, "price": 0.1 + 0.2}})
    assert refused == Refusal(1, "price", 'must be decimal text such as "12.50"')


def test_a_reason_never_repeats_what_the_line_holds() -> None:
    """Refusals are printed and logged; the line may hold what must not be."""
    secret = "hunter2" * 40
    args = {"username": secret, "email": secret, "full_name": [secret], "is_active": secret}
    lines = [
        secret.encode(),
        b'{"job": "' + secret.encode(),
        json.dumps({"job": secret}).encode(),
        json.dumps({"job": "create_user", "id": secret, "args": USER}).encode(),
        json.dumps({"job": "create_user", "args": args}).encode(),
    ]
    assert not [item for item in read(b"\n".join(lines)) if "hunter2" in repr(item)]


class _Flood:
    """A file of one endless line, then a good one; it notes the largest piece that was asked for."""

    def __init__(self, byte_count: int) -> None:
        self._left = byte_count
        self._rest = io.BytesIO(b"\n" + USER_LINE)
        self.largest_piece = 0

    def __iter__(self) -> "_Flood":
        return self

    def __next__(self) -> bytes:
        raise AssertionError("would read the whole line at once")

    def readline(self, size: int = -1) -> bytes:
        self.largest_piece = max(self.largest_piece, size)
        if not self._left:
            return self._rest.readline(size)
        piece = min(size, self._left)
        self._left -= piece
        return b"x" * piece


def test_a_line_beyond_the_cap_is_refused_without_being_held_in_memory() -> None:
    """A gigabyte without a newline must not take the producer down; the lines after it count."""
    flood = _Flood(64 * 2**20)
    refused, accepted = CommandReader.of_lines(flood, source="flood.jsonl")
    assert refused == Refusal(1, "", f"is longer than {MAX_LINE_BYTES} bytes")
    assert isinstance(accepted, Submission)
    assert flood.largest_piece <= MAX_LINE_BYTES + 1


@pytest.mark.parametrize("newline", [b"\n", b""])
def test_the_longest_line_that_is_accepted_makes_a_job_that_a_worker_still_decodes(newline: bytes) -> None:
    """The queue wraps a few dozen bytes around the args: the cap leaves room for them."""
    head = b'{"job":"create_product","args":{"name":"Pan","price":"1","category":"Kitchen","description":"'
    longest = head + b"x" * (MAX_LINE_BYTES - len(head) - 3) + b'"}}'
    accepted, refused = read(longest + b"\n" + longest + b" " + newline)
    assert isinstance(accepted, Submission)
    assert isinstance(refused, Refusal)
    envelope = {"f": accepted.function, "a": (), "k": accepted.fields, "t": None, "et": 253_402_300_799_999}
    assert len(wire.serialize(envelope)) <= wire.MAX_PAYLOAD_BYTES


def test_the_same_file_makes_the_same_ids_again_wherever_it_lies() -> None:
    """A second run reports duplicates, also from another directory and after the last newline was added."""
    content = USER_LINE + b"\n" + USER_LINE
    assert ids(content, "a/commands.jsonl") == ids(content + b"\n", "/b/commands.jsonl")


def test_equal_lines_of_a_file_are_two_jobs() -> None:
    """Two orders of the same thing are two orders."""
    first, second = ids(USER_LINE + b"\n" + USER_LINE)
    assert first != second
    assert first.startswith("file-")
    assert len(first) == len("file-") + 32


def test_another_file_or_another_place_or_another_text_makes_another_job() -> None:
    """What the made id means: this line, at this place, of a file of this name."""
    made = ids(USER_LINE) + ids(USER_LINE, "other.jsonl") + ids(b"\n" + USER_LINE) + ids(b" " + USER_LINE)
    assert len(set(made)) == len(made)


def test_standard_input_makes_new_ids_every_time() -> None:
    """Two pipes are not the same file."""
    made = ids(USER_LINE, "-") + ids(USER_LINE, "-")
    assert len(set(made)) == len(made)


def test_a_file_name_that_is_not_unicode_makes_ids_too() -> None:
    """Python hands such a name over with lone surrogates."""
    assert ids(USER_LINE, "caf\udce9.jsonl")


@given(st.lists(st.binary(max_size=80).map(lambda line: line.replace(b"\n", b""))))
def test_no_bytes_end_the_reading(lines: list[bytes]) -> None:
    """Every line that is not blank has its item, and the good line at the end is still read."""
    *refused, last = read(b"\n".join([*lines, USER_LINE]))
    blank = sum(
        not line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").rstrip() for number, line in enumerate(lines)
    )
    assert isinstance(last, Submission)
    assert len(refused) == len(lines) - blank


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {"job": st.just("create_user") | JSON, "args": st.dictionaries(st.sampled_from([*USER, "x"]), JSON) | JSON},
    optional={"id": JSON},
)


@given(ENTRIES)
@settings(max_examples=40)
def test_no_json_ends_the_reading(entry: dict[str, Any]) -> None:
    """Whatever stands where job, id and args should stand, the answer is one submission or one refusal."""
    assert len(read(json.dumps(entry).encode())) == 1


def ledger_id(queue_id: str) -> str:
    """Return the id that the ledger has of a job."""
    job: Job = Job(queue_id)
    return job.id


@given(st.text())
def test_an_id_that_is_accepted_is_safe_wherever_ids_go(job_id: str) -> None:
    """In a Redis key, a log line and a text column: encodable, in one piece, not empty."""
    try:
        check_id(job_id)
    except ValueError:
        return
    assert job_id.encode()
    assert job_id.strip() == job_id
    assert job_id.isprintable()
    assert job_id == ledger_id(job_id)
    assert "\x00" not in job_id


@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "x" * 201,
        " a",
        "a ",
        " ",
        "a\tb",
        "a\ufffd",
        "a\u202eb",
        "a\x85",
        "a\n",
        "a\x00",
        "a\u2028b",
        "a\u00a0b",
        "\x7f",
        "\ud800",
        "a\u200bb",
        ".",
        "..",
        ledger_id(" a"),
    ],
)
def test_an_id_that_would_break_something_is_refused(job_id: str) -> None:
    """Empty, too long, whitespace, control characters, invisible ones, lone surrogates, mere dots, escaped ids."""
    with pytest.raises(ValueError, match="must have "):
        check_id(job_id)


@pytest.mark.parametrize(
    "job_id",
    ["a", "or-p-BANK CHARGES", "a  b", "x" * 200, "northwind-order-10248-42", "größe:7/8", "注文-1", "...", "a/.."],
)
def test_ids_as_people_choose_them_are_accepted(job_id: str) -> None:
    """Any language, any punctuation."""
    check_id(job_id)


@given(st.text(max_size=210), st.text(max_size=210))
def test_the_ledger_has_an_id_of_its_own_for_every_id(one: str, other: str) -> None:
    """Whatever an arq client chose, and also if it chose the ledger's id of another job."""
    made = [ledger_id(one), ledger_id(other), ledger_id(ledger_id(one)), ledger_id(ledger_id(other))]
    chosen = [one, other, ledger_id(one), ledger_id(other)]
    assert len(set(chosen)) == len(set(made))
    for job_id in made:
        assert job_id.isprintable()
        assert 1 <= len(job_id.strip()) == len(job_id) <= MAX_ID_CHARACTERS


def test_the_last_of_two_equal_keys_counts() -> None:
    """As it does to Python, PostgreSQL and JavaScript."""
    (item,) = read(b'{"job": "set_stock", "args": {"sku": "a", "sku": "b", "in_stock": true}}')
    assert isinstance(item, Submission)
    assert {"sku": "b", "in_stock": True} == item.fields
