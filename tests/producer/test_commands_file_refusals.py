"""Commands files: which lines are refused, and what the refusal says."""

import io
import json
from typing import Any

import pytest
from commands_files import USER, USER_LINE, read, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.commands_file import MAX_LINE_BYTES, CommandReader, RefusedLine
from tidepool.jobs.submission import Submission
from tidepool.queue import wire


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
    assert isinstance(refused, RefusedLine)
    assert 2 == refused.line
    assert refused.reason.startswith(reason)


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
        "create_product, create_user, place_order, set_stock, update_user"
    )


def test_what_the_command_refuses_is_reported_with_its_field() -> None:
    """One fault: the field apart. Several, or one that is of no single field: the whole text as the reason."""
    assert refusal({"job": "create_user", "args": {**USER, "email": "ada"}}) == RefusedLine(
        1, "email", "must have one @, no spaces, and something on both sides"
    )
    assert refusal({"job": "create_user", "args": {"email": "ada@example.org"}}) == RefusedLine(
        1, "", "username: Field required; full_name: Field required"
    )
    assert refusal({"job": "set_stock", "args": {"in_stock": True}}) == RefusedLine(
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
    assert refused == RefusedLine(1, "price", 'must be decimal text such as "12.50"')


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
    assert refused == RefusedLine(1, "", f"is longer than {MAX_LINE_BYTES} bytes")
    assert isinstance(accepted, Submission)
    assert flood.largest_piece <= MAX_LINE_BYTES + 1


@pytest.mark.parametrize("newline", [b"\n", b""])
def test_the_longest_line_that_is_accepted_makes_a_job_that_a_worker_still_decodes(newline: bytes) -> None:
    """The queue wraps a few dozen bytes around the args: the cap leaves room for them."""
    head = b'{"job":"create_product","args":{"name":"Pan","price":"1","category":"Kitchen","description":"'
    longest = head + b"x" * (MAX_LINE_BYTES - len(head) - 3) + b'"}}'
    accepted, refused = read(longest + b"\n" + longest + b" " + newline)
    assert isinstance(accepted, Submission)
    assert isinstance(refused, RefusedLine)
    envelope = {"f": accepted.function, "a": (), "k": accepted.fields, "t": None, "et": 253_402_300_799_999}
    assert len(wire.serialize(envelope)) <= wire.MAX_PAYLOAD_BYTES


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
