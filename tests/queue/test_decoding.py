"""From bytes to a command, through the whole decoding path, as properties: see `decoding` for what is asserted.

The steps by themselves have theirs already: `wire.receive` in `test_wire`, `JobType.parse` in `test_fields`, the lines
of a commands file in `test_commands_file_refusals`.
"""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from decoding import ENVELOPE, checked
from hypothesis import given
from hypothesis import strategies as st

from producer.commands_file import CommandReader, RefusedLine
from tidepool.jobs.arguments import Command
from tidepool.jobs.outcomes import Rejected
from tidepool.jobs.submission import Submission
from tidepool.queue import wire
from worker.jobs import JOBS

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())

FUNCTIONS = [job_type.name for job_type in JOBS]
FIELDS = sorted({name for job_type in JOBS for name in job_type.command.model_fields})
NUMBERS = st.integers() | st.sampled_from([0, -1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CONTENT = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6)


def text(most: int) -> st.SearchStrategy[str]:
    """Return the texts that a column of *most* characters can hold, each with a visible character."""
    around = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=(most - 1) // 2)
    return st.builds("{}{}{}".format, around, st.sampled_from("aZ0é😀"), around)


def money(most: str) -> st.SearchStrategy[str]:
    """Return amounts up to *most*, as text."""
    return st.decimals(0, Decimal(most), places=2).map(lambda amount: f"{amount:f}")


def one_of_each(*pairs: tuple[dict[str, Any], dict[str, Any]], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return contents with exactly one of each pair, and any of *optional*."""
    contents = st.fixed_dictionaries({}, optional=optional)
    for first, second in pairs:
        either = st.fixed_dictionaries(first) | st.fixed_dictionaries(second)
        contents = st.builds(lambda have, more: {**have, **more}, contents, either)
    return contents


ID = st.integers(1, 2**63 - 1)
EMAIL = st.builds("{}@{}".format, *[st.text("aZ0.+-é😀", min_size=1, max_size=20)] * 2)
USER = ({"user_id": ID}, {"username": text(50)})
PRODUCT = ({"product_id": ID}, {"sku": text(64)})
CHANGES = {"email": EMAIL, "full_name": text(255), "is_active": st.booleans()}
VALID: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "create_user": st.fixed_dictionaries(
        {"username": text(50), "email": EMAIL, "full_name": text(255)}, optional={"is_active": st.booleans()}
    ),
    "create_product": st.fixed_dictionaries(
        {"name": text(255), "price": money("99999999.99"), "category": text(100)},
        optional={"sku": text(64), "description": text(300), "in_stock": st.booleans()},
    ),
    "place_order": one_of_each(
        USER,
        PRODUCT,
        ({"quantity": st.integers(1, 2**31 - 1)},) * 2,
        total_price=money("999999999999999999.99"),
        status=text(50),
    ),
    "update_user": one_of_each(USER, **CHANGES).filter(lambda content: len(content) > 1),
    "set_stock": one_of_each(PRODUCT, ({"in_stock": st.booleans()},) * 2),
}
COMMANDS = st.sampled_from(FUNCTIONS).flatmap(lambda name: st.tuples(st.just(name), VALID[name]))


def sent(function: Any, content: Any) -> bytes:
    """Return a job's bytes, as any JSON library would write them."""
    return json.dumps({**ENVELOPE, "f": function, "k": content}).encode()


def test_every_kind_of_job_is_tried_here() -> None:
    """A new kind needs its valid content above."""
    assert set(FUNCTIONS) == set(VALID)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_fuzzers_corpus_is_a_command_or_rejected(path: Path) -> None:
    """Whatever the fuzzer found once is kept there."""
    checked(path.read_bytes())


@given(payload=st.binary())
def test_any_bytes_are_a_command_or_rejected(payload: bytes) -> None:
    """Property: nothing else comes of them, and nothing is raised."""
    checked(payload)


@given(function=st.sampled_from(FUNCTIONS) | JSON, content=CONTENT | JSON)
def test_any_json_for_any_function_is_a_command_or_rejected(function: Any, content: Any) -> None:
    """Property: by name, or as the one positional argument."""
    checked(sent(function, content))
    checked(json.dumps({**ENVELOPE, "f": function, "a": [content]}).encode())


@given(envelope=st.fixed_dictionaries({}, optional={name: JSON | st.just(ENVELOPE[name]) for name in ENVELOPE}))
def test_any_envelope_is_a_command_or_rejected(envelope: dict[str, Any]) -> None:
    """Property: whatever stands in place of an envelope's fields."""
    checked(json.dumps(envelope).encode())


@given(command=COMMANDS)
def test_a_valid_command_arrives_as_it_was_sent(command: tuple[str, dict[str, Any]]) -> None:
    """Property: what the client serializes, the worker decodes to the same command."""
    function, content = command
    job_type = JOBS.get(function)
    assert job_type is not None
    received = checked(wire.serialize({**ENVELOPE, "f": function, "k": content}))
    assert isinstance(received, Command)
    assert job_type.parse(content) == received


@given(command=COMMANDS)
def test_a_valid_command_in_a_file_is_submitted_as_it_is(command: tuple[str, dict[str, Any]]) -> None:
    """Property: and nothing is filled in or changed."""
    function, content = command
    (item,) = CommandReader.of_lines([json.dumps({"job": function, "args": content}).encode()], source="-")
    assert isinstance(item, Submission)
    assert (function, content) == (item.function, item.fields)


@given(function=st.sampled_from(FUNCTIONS), content=CONTENT | JSON | st.one_of(*VALID.values()))
def test_producer_and_worker_are_of_one_mind(function: str, content: Any) -> None:
    """Property: what a commands file is refused for, a worker would have rejected, and the other way round."""
    (item,) = CommandReader.of_lines([json.dumps({"job": function, "args": content}).encode()], source="-")
    received = checked(sent(function, content))
    assert isinstance(item, RefusedLine) == isinstance(received, Rejected)
