"""Commands are strict: what each field refuses, and what the refusal says."""

from decimal import Decimal
from typing import Any

import pytest
from factories import product_fields, user_fields
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator
from pydantic_core import from_json, to_json

from tidepool.jobs import arguments
from tidepool.jobs.arguments import MAX_FIELDS, Command
from tidepool.jobs.outcomes import CommonReason, Rejected
from worker.jobs import JOBS
from worker.jobs.place_order import PlaceOrder

ORDER: dict[str, Any] = {"username": "ada", "sku": "LAMP", "quantity": 1}
VALID: dict[str, dict[str, Any]] = {
    "create_user": user_fields(),
    "create_product": product_fields(),
    "place_order": ORDER,
    "update_user": {"username": "ada", "full_name": "Ada"},
    "set_stock": {"sku": "LAMP", "in_stock": False},
}
DEEP: Any = 1
for _ in range(500):
    DEEP = [DEEP]


def parse(function: str, **fields: Any) -> Command | Rejected:
    """Parse the valid content of *function* with *fields* in place of its own."""
    job_type = JOBS.get(function)
    assert job_type is not None
    return job_type.parse({**VALID[function], **fields})


@pytest.mark.parametrize("function", VALID)
def test_the_valid_content_is_accepted(function: str) -> None:
    """Else the refusals below would prove nothing."""
    assert isinstance(parse(function), Command)


def test_every_kind_of_job_is_tried_here() -> None:
    """A new kind needs its valid content above."""
    assert {job_type.name for job_type in JOBS} == set(VALID)


@pytest.mark.parametrize(
    ("function", "field", "poison"),
    [
        ("create_user", "username", 5),
        ("create_user", "username", ["ada"]),
        ("create_user", "username", None),
        ("create_user", "username", ""),
        ("create_user", "username", "x" * 51),
        ("create_user", "username", "a\x00b"),
        ("create_user", "username", "\ud800"),
        ("create_user", "email", "no-at"),
        ("create_user", "email", "two@at@signs"),
        ("create_user", "email", "@b"),
        ("create_user", "email", "a@"),
        ("create_user", "email", "a b@c"),
        ("create_user", "email", "a@b\n"),
        ("create_user", "email", f"{'x' * 250}@b.org"),
        ("create_user", "full_name", {"name": "Ada"}),
        ("create_user", "full_name", "x" * 256),
        ("create_user", "full_name", "\udfff"),
        ("create_user", "is_active", "true"),
        ("create_user", "is_active", 1),
        ("create_user", "is_active", None),
        ("create_product", "price", True),
        ("create_product", "price", 12.505),
        ("create_product", "price", 0.1 + 0.2),
        ("create_product", "price", 9007199254740993),
        ("create_product", "price", 1e400),
        ("create_product", "name", "\u200b"),
        ("create_product", "category", " \u3164\u2800"),
        ("create_user", "username", " "),
        ("create_user", "full_name", "\ufe0f\u202e"),
        ("place_order", "status", "\n"),
        ("create_product", "price", "-0.01"),
        ("create_product", "price", "0.001"),
        ("create_product", "price", "1e-20"),
        ("create_product", "price", "1e20"),
        ("create_product", "price", "1" * 30),
        ("create_product", "price", 10**400),
        ("create_product", "price", "100000000.00"),
        ("create_product", "price", "NaN"),
        ("create_product", "price", "Infinity"),
        ("create_product", "price", float("nan")),
        ("create_product", "price", float("inf")),
        ("create_product", "price", Decimal("NaN")),
        ("create_product", "price", Decimal("sNaN")),
        ("create_product", "price", Decimal("-Infinity")),
        ("create_product", "price", ""),
        ("create_product", "price", " 1"),
        ("create_product", "price", "1_000"),
        ("create_product", "price", "1,5"),
        ("create_product", "sku", None),
        ("create_product", "sku", "x" * 65),
        ("create_product", "category", ""),
        ("create_product", "category", "x" * 101),
        ("create_product", "description", "\x00"),
        ("place_order", "quantity", 0),
        ("place_order", "quantity", -1),
        ("place_order", "quantity", 2**31),
        ("place_order", "quantity", 10**30),
        ("place_order", "quantity", 1.0),
        ("place_order", "quantity", True),
        ("place_order", "quantity", "1"),
        ("place_order", "quantity", float("nan")),
        ("place_order", "total_price", "-1"),
        ("place_order", "total_price", "1000000000000000000.00"),
        ("place_order", "total_price", None),
        ("place_order", "status", ""),
        ("place_order", "status", "x" * 51),
        ("set_stock", "in_stock", 0),
    ],
)
def test_a_poisonous_field_is_rejected_by_name(function: str, field: str, poison: Any) -> None:
    """Nothing is converted, rounded or cut: the rejection names the field that is wrong."""
    rejected = parse(function, **{field: poison})
    assert isinstance(rejected, Rejected)
    assert rejected.reason is CommonReason.INVALID
    assert rejected.detail.startswith(field)


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("place_order", {"user_id": 1}),
        ("place_order", {"product_id": 1}),
        ("set_stock", {"product_id": 1}),
        ("update_user", {"user_id": 1}),
        ("update_user", {"user_id": 2**63}),
        ("create_user", {"role": "admin"}),
        ("create_user", {"id": 1}),
        ("create_user", {"full_name; DROP TABLE users": "x"}),
    ],
)
def test_contradictions_and_unknown_fields_are_rejected(function: str, fields: dict[str, Any]) -> None:
    """Two names for one user, ids beyond bigint, fields that only an attacker would send."""
    assert isinstance(parse(function, **fields), Rejected)


@pytest.mark.parametrize(
    "content", [{}, {"username": "ada"}, {"user_id": 1}, {"username": "ada", "user_id": 1, "email": "a@b"}]
)
def test_a_change_names_one_user_and_a_change(content: dict[str, Any]) -> None:
    """Else there is nothing to do, or two users to do it to."""
    job_type = JOBS.get("update_user")
    assert job_type is not None
    assert isinstance(job_type.parse(content), Rejected)


@pytest.mark.parametrize("name", ["\u202egnp", "z\u200bw", "\U0001f600", "e\u0301", "\u00e9", "İ", "ADA", " ada "])
def test_unusual_text_is_kept_to_the_letter(name: str) -> None:
    """Right-to-left marks, emoji and accents are text like any other: nothing is normalized or folded."""
    command = parse("create_user", username=name)
    assert not isinstance(command, Rejected)
    assert name == command.model_dump()["username"]


@pytest.mark.parametrize(
    ("given_price", "stored"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("99999999.99", "99999999.99"),
        ("+1.5", "1.5"),
        (100, "100"),
        ("1.500", "1.500"),
        (99.99, "99.99"),
        (-0.0, "0.0"),
        (1e2, "100.0"),
        ("1E+2", "1E+2"),
    ],
)
def test_a_price_is_exact(given_price: Any, stored: str) -> None:
    """Text or a whole number, both edges, no negative zero."""
    command = parse("create_product", price=given_price)
    assert not isinstance(command, Rejected)
    assert stored == str(command.model_dump()["price"])


@given(cents=st.integers(0, 10**15 - 1))
def test_an_amount_is_the_same_as_text_and_as_a_number(cents: int) -> None:
    """Property: every amount of up to 15 digits, as JSON carries it."""
    text = f"{cents // 100}.{cents % 100:02}"
    as_text = parse("place_order", total_price=text)
    as_number = parse("place_order", total_price=from_json(text))
    again = parse("place_order", total_price=from_json(to_json(from_json(text))))
    assert as_text == as_number == again
    assert isinstance(as_text, PlaceOrder)
    assert Decimal(cents).scaleb(-2) == as_text.total_price


@given(number=st.floats() | st.integers())
def test_a_number_is_taken_to_the_letter_or_not_at_all(number: float) -> None:
    """Property: what is taken is the number's shortest form, of at most 15 digits and two decimals."""
    parsed = parse("place_order", total_price=number)
    if isinstance(parsed, PlaceOrder):
        assert parsed.total_price == Decimal(repr(number))
        assert len(str(parsed.total_price).replace(".", "").strip("0").partition("E")[0]) <= 15


@pytest.mark.parametrize("price", ["1.000000000000000000000000000001", "99999999.990000000000000000000000000001"])
def test_a_price_with_many_decimals_is_not_rounded_silently(price: str) -> None:
    """31 digits are within the pattern, but not within the context's precision."""
    assert isinstance(parse("create_product", price=price), Rejected)


def test_a_price_has_ascii_digits() -> None:
    """`٣` is a digit to Python, and no decimal text to anybody who reads the queue."""
    assert isinstance(parse("create_product", price="٣"), Rejected)


@pytest.mark.parametrize("content", [None, [], "text", 5, True, {"deep": DEEP}, {"a\x00b": 1}, {"\ud800": 1}])
def test_what_is_no_content_is_rejected(content: Any) -> None:
    """Whatever JSON can hold in place of the object."""
    for job_type in JOBS:
        assert isinstance(job_type.parse(content), Rejected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({name for job_type in JOBS for name in job_type.command.model_fields})
NEARLY_CONTENT = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=8)


@given(content=JSON | NEARLY_CONTENT)
def test_parse_never_raises(content: Any) -> None:
    """Property: every JSON value is a command or a rejection with a reason in words."""
    for job_type in JOBS:
        parsed = job_type.parse(content)
        assert isinstance(parsed, job_type.command) or (isinstance(parsed, Rejected) and parsed.detail)


@pytest.mark.parametrize("function", VALID)
def test_an_explanation_never_repeats_the_content(function: str) -> None:
    """Content is private: neither the ledger's error nor a log line may hold it."""
    secret = "hunter2\x00"
    for field in JOBS.get(function).command.model_fields:  # type: ignore[union-attr]
        rejected = parse(function, **{field: secret * 100})
        assert isinstance(rejected, Rejected)
        assert "hunter2" not in rejected.detail


def test_an_unknown_fields_name_is_escaped_and_cut() -> None:
    """The name is the sender's: it must not break a line of the log, nor fill the ledger."""
    rejected = parse("create_user", **{"\x1b[31mé\n" + "x" * 500: 1})
    assert isinstance(rejected, Rejected)
    assert rejected.detail.startswith(r"\x1b[31m\xe9\nxxx")
    assert len(rejected.detail) < 120


def test_only_the_first_five_faults_are_reported() -> None:
    """Many unknown fields make no endless error."""
    rejected = parse("create_user", **{f"field_{n}": n for n in range(MAX_FIELDS - len(VALID["create_user"]))})
    assert isinstance(rejected, Rejected)
    assert rejected.detail.endswith("; and 92 more")
    assert len(rejected.detail) < 500


@pytest.mark.parametrize("function", VALID)
def test_too_many_fields_are_not_even_looked_at(function: str) -> None:
    """One field over the limit is refused in a few words; no command has nearly as many."""
    rejected = parse(function, **{f"field_{n}": n for n in range(MAX_FIELDS)})
    assert Rejected(CommonReason.INVALID, "has more than 100 fields") == rejected


def test_endless_nesting_is_reported_in_words() -> None:
    """It is all that pydantic says: it gives up with a RecursionError, which has no fields to name."""

    class Deep(Command):
        @model_validator(mode="before")
        @classmethod
        def recurse(cls, content: object) -> object:
            """Give up as pydantic does."""
            raise RecursionError(content)

    rejected = arguments.validate(Deep, {})
    assert Rejected(CommonReason.INVALID, "is nested too deeply") == rejected
