"""Arguments of functions: bound as Python binds them, validated, and the same after they were sent as JSON."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from tidepool import App, JobType, Rejected, Transaction


class Colour(enum.Enum):
    """A value of an application."""

    RED = "red"


@dataclass
class Point:
    """A dataclass of an application."""

    x: int
    y: float = 0.0


class Opaque:
    """A class that pydantic knows nothing about."""


class Address(BaseModel):
    """A pydantic model that is no command."""

    street: str
    since: date | None = None


VALUES: dict[str, tuple[Any, Any]] = {
    "uuid": (UUID, UUID(int=7)),
    "datetime": (datetime, datetime(2026, 12, 1, 2, 3, 4, 5, tzinfo=UTC)),
    "date": (date, date(2026, 12, 1)),
    "timedelta": (timedelta, timedelta(days=1, microseconds=3)),
    "decimal": (Decimal, Decimal("12.50")),
    "enum": (Colour, Colour.RED),
    "dataclass": (Point, Point(1, 2.5)),
    "model": (Address, Address(street="Long", since=date(2020, 1, 2))),
    "bytes": (bytes, b"\x00\xff"),
    "list": (list[UUID], [UUID(int=1), UUID(int=2)]),
    "dict": (dict[str, Decimal], {"a": Decimal("0.1")}),
    "tuple": (tuple[int, str], (1, "a")),
    "optional": (UUID | None, None),
    "text": (str, "é\n"),
    "large number": (int, 10**30),
}


def declare(function: Callable[..., Any]) -> JobType[Any, Any]:
    """Return *function* as a job type."""
    return App().job(function)


def received(job_type: JobType[Any, Any], *args: Any, **kwargs: Any) -> Any:
    """Return the command that a worker makes of a call, which was sent as JSON."""
    fields = from_json(to_json(job_type.call(*args, **kwargs).submission.fields))
    return job_type.parse(job_type.content_of((), fields))


@pytest.mark.parametrize("name", VALUES)
def test_a_value_arrives_as_it_was_given(name: str) -> None:
    """JSON has no type for most of them; a worker makes the same value of what was sent."""
    annotation, value = VALUES[name]

    async def job(_tx: Transaction, value: Any) -> None: ...

    job.__annotations__["value"] = annotation
    job_type = declare(job)
    for command in (received(job_type, value), received(job_type, value=value)):
        assert value == command.value
        assert type(value) is type(command.value)


async def charge(_tx: Transaction, order_id: int, /, cents: int, *, ref: UUID, note: str = "") -> None:
    """Take all kinds of parameters."""


def test_arguments_are_bound_as_python_binds_them() -> None:
    """By position or by name, at the sender and at the worker, whose job may come from arq's own client."""
    job_type, ref = declare(charge), UUID(int=1)
    command = received(job_type, 17, 990, ref=ref)
    assert job_type.signature is not None
    assert ([17, 990], {"ref": ref, "note": ""}) == job_type.signature.arguments(command)
    assert command == job_type.parse(job_type.content_of((17,), {"cents": 990, "ref": str(ref)}))
    assert command == job_type.parse(job_type.content_of(({"order_id": 17, "cents": 990, "ref": str(ref)},), {}))


@pytest.mark.parametrize(
    ("args", "kwargs"), [((17,), {}), ((17, 1, 2), {}), ((17, 1), {"ref": UUID(int=1), "cents": 2}), ((), {"x": 1})]
)
def test_a_wrong_call_is_a_type_error(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """As it would be if the function were called."""
    with pytest.raises(TypeError):
        declare(charge).call(*args, **kwargs)


def test_a_worker_rejects_what_a_sender_would_have_refused() -> None:
    """Jobs also come from other programs."""
    job_type = declare(charge)
    for args, kwargs in (((1, 2, 3), {}), ((1, 2), {"cents": 2})):
        with pytest.raises(TypeError):
            job_type.content_of(args, kwargs)
    rejected = job_type.parse({"order_id": "seventeen", "cents": 1, "ref": "no", "shoe": 1})
    assert isinstance(rejected, Rejected)
    assert "order_id" in rejected.detail
    assert "ref" in rejected.detail
    assert "seventeen" not in rejected.detail


@pytest.mark.parametrize(
    ("annotation", "value"), [(UUID | str, UUID(int=1)), (Any, Point(1)), (int, "7"), (object, {1})]
)
def test_a_value_that_would_arrive_as_another_one_is_refused(annotation: Any, value: Any) -> None:
    """When it is enqueued, where the mistake is, and not in a worker."""

    async def job(_tx: Transaction, value: Any) -> None: ...

    job.__annotations__["value"] = annotation
    with pytest.raises(ValueError, match="job"):
        declare(job).call(value)


def test_functions_whose_arguments_cannot_be_validated_are_refused() -> None:
    """When the module is imported, with the name of the function and of the parameter."""

    async def starred(_tx: Transaction, *numbers: int) -> None: ...

    async def bare(_tx: Transaction, number) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    async def odd(_tx: Transaction, number: Opaque) -> None: ...

    async def nothing() -> None: ...

    async def other(_session: Point, number: int) -> None: ...

    for function in (starred, bare, odd, nothing, other):
        with pytest.raises(TypeError, match=function.__name__):
            declare(function)
