"""The wire format: what travels, what comes back, and what a worker makes of the unreadable."""

import ast
import asyncio
import json
import re
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from arq.jobs import DeserializationError, deserialize_result
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticSerializationError

from tidepool.jobs.outcomes import Rejected
from tidepool.queue.wire import MAX_PAYLOAD_BYTES, deserialize, receive, serialize
from worker.jobs import JOBS

ENVELOPE: dict[str, Any] = {"f": "create_user", "a": [], "k": {"username": "ada"}, "t": None, "et": 1764000000000}
ROOT = Path(__file__).parents[2]


def changed(**fields: Any) -> bytes:
    """Return the envelope with *fields* in place of its own."""
    return json.dumps({**ENVELOPE, **fields}).encode()


def test_a_job_comes_back_as_it_was_sent() -> None:
    """Accents and emoji included; a tuple of arguments becomes a list."""
    job = {**ENVELOPE, "a": (), "k": {"username": "Åsa 😀", "quantity": 2**31}}
    assert {**job, "a": []} == deserialize(serialize(job)) == receive(serialize(job))


def test_money_travels_as_text() -> None:
    """A float would lose cents."""
    assert {"r": "1051657.92"} == deserialize(serialize({"r": Decimal("1051657.92")}))


def test_text_that_is_not_unicode_cannot_be_sent() -> None:
    """The sender learns of it at once, not the worker."""
    with pytest.raises((PydanticSerializationError, UnicodeEncodeError)):
        serialize({"r": "\ud800"})


def test_what_has_no_place_in_json_cannot_be_sent() -> None:
    """There is no pickle to fall back to."""
    with pytest.raises(PydanticSerializationError, match="object has no place in JSON"):
        serialize({"r": object()})


@pytest.mark.parametrize("error", [ValueError("no such user"), KeyError("x"), RuntimeError("")])
def test_an_exception_travels_as_its_name_and_text(error: Exception) -> None:
    """It comes back as a RuntimeError: no reader constructs a class that a sender names."""
    back = deserialize(serialize({"s": False, "r": error}))["r"]
    assert (RuntimeError, str(error)) == (type(back), str(back))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), TimeoutError("late")])
def test_the_exceptions_that_arqs_client_knows_come_back_as_themselves(error: BaseException) -> None:
    """`Job.abort()` waits for a CancelledError."""
    back = deserialize(serialize({"s": False, "r": error}))["r"]
    assert (type(error), str(error)) == (type(back), str(back))


def test_a_reply_that_is_no_json_raises_value_error() -> None:
    """As its docstring says."""
    with pytest.raises(ValueError, match="expected value"):
        deserialize(b"\x80\x04K")


@pytest.mark.parametrize("reply", [b"[]", b"1", b"null", b'"text"'])
def test_a_reply_that_is_no_envelope_raises_value_error(reply: bytes) -> None:
    """Valid JSON, but neither a job nor a result."""
    with pytest.raises(ValueError, match="neither a job nor a result"):
        deserialize(reply)


@pytest.mark.parametrize("name", [[], {}, 1, None])
def test_an_error_without_a_name_is_left_as_it_is(name: object) -> None:
    """Only what `serialize` writes comes back as an exception."""
    envelope = {"r": {"!error": name}}
    assert envelope == deserialize(serialize(envelope))


def test_arqs_client_tells_an_unreadable_result_as_such() -> None:
    """It wraps whatever the deserializer raises."""
    with pytest.raises(DeserializationError):
        deserialize_result(b"[]", deserializer=deserialize)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "is not JSON"),
        (b"\x00\xff\xfe", "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        ('{"f": "create_user"}'.encode("utf-16"), "is not JSON"),
        (changed()[:-1], "is not JSON"),
        (b"\x80\x05\x95.", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"f": NaN}', "has no valid 'f'"),
        (b'{"f": Nan}', "is not JSON"),
        (b'{"f": "\\ud800"}', "is not JSON"),
        (b'{"et": ' + b"1" * 100_000 + b"}", "is not JSON"),
        (b"[]", "is not an object"),
        (b"null", "is not an object"),
        (b"{}", "has no valid 'f'"),
        (changed(f=["create_user"]), "has no valid 'f'"),
        (changed(f=None), "has no valid 'f'"),
        (changed(f={"create_user": 1}), "has no valid 'f'"),
        (changed(a="text"), "has no valid 'a'"),
        (changed(a=None), "has no valid 'a'"),
        (changed(k=[]), "has no valid 'k'"),
        (changed(k=None), "has no valid 'k'"),
        (changed(t="2"), "has no valid 't'"),
        (changed(t=True), "has no valid 't'"),
        (changed(t=-1), "has no valid 't'"),
        (changed(et="now"), "has no valid 'et'"),
        (changed(et=1e30), "has no valid 'et'"),
        (changed(et=-1), "has no valid 'et'"),
        (changed(et=2**63), "has no valid 'et'"),
    ],
    ids=lambda value: value[:25] if isinstance(value, bytes) else "",
)
def test_a_wrong_envelope_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    """By itself arq would end the worker on most of these, and again whenever the job comes back."""
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        receive(payload)


def test_the_reason_repeats_nothing_of_the_payload() -> None:
    """It goes into the ledger and the log."""
    with pytest.raises(ValueError, match="has no valid 'et'") as raised:
        receive(changed(et="hunter2"))
    assert "hunter2" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_the_largest_payload_is_read() -> None:
    """The bound is inclusive."""
    padded = changed().ljust(MAX_PAYLOAD_BYTES)
    assert ENVELOPE == receive(padded)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity"])
def test_what_is_no_finite_number_gets_no_further_than_the_command(number: bytes) -> None:
    """It is read as a float, which no field takes."""
    content = receive(changed().replace(b'"ada"', number))["k"]
    assert all(isinstance(job_type.parse(content), Rejected) for job_type in JOBS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(payload=st.binary())
def test_arbitrary_bytes_raise_nothing_but_value_error(payload: bytes) -> None:
    """Property: the engine catches that one, and nothing else may reach it."""
    with suppress(ValueError):
        receive(payload)


@given(envelope=st.fixed_dictionaries({}, optional={name: JSON | st.just(ENVELOPE[name]) for name in ENVELOPE}))
def test_arbitrary_envelopes_have_the_right_types_or_raise_value_error(envelope: dict[str, Any]) -> None:
    """Property: the same for JSON that looks like a job."""
    with suppress(ValueError):
        call = receive(json.dumps(envelope).encode())
        assert [str, list, dict, int] == [type(call[name]) for name in ("f", "a", "k", "et")]


@given(fields=st.dictionaries(st.text(), JSON.filter(lambda value: "NaN" not in str(value)), max_size=4))
def test_whatever_can_be_sent_arrives(fields: dict[str, Any]) -> None:
    """Property: a round trip through bytes changes nothing, infinities aside."""
    payload = serialize({**ENVELOPE, "k": fields})
    if b"Infinity" not in payload and b"NaN" not in payload:
        assert fields == receive(payload)["k"]


def test_nothing_of_ours_runs_code_from_bytes() -> None:
    """No pickle, marshal, shelve or eval anywhere in the product: who can write to Redis must not run code here."""
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
    found: list[str] = []
    for path in [
        ROOT / "settings.py",
        *(ROOT / "tidepool").rglob("*.py"),
        *(ROOT / "worker").rglob("*.py"),
        *(ROOT / "producer").rglob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names} & forbidden
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]} & forbidden
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {node.func.id} & {"eval", "exec", "__import__", "compile"}
            found += [f"{path.relative_to(ROOT)}: {name}" for name in names]
    assert [] == found
