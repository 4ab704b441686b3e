"""Functions as arq applications have them, with what they pickle, on arq's class and on ours."""

import dataclasses
import datetime as dt
import enum
import functools
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.worker import func
from pydantic import BaseModel, SecretStr

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]


class Mail(BaseModel):
    """A model of pydantic, with another one in it and what JSON has no word for."""

    to: list[str]
    token: SecretStr
    attachment: bytes
    reply: "Mail | None" = None


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A dataclass with a time span."""

    center: tuple[float, float]
    lifetime: dt.timedelta


class Table:
    """Compares as a DataFrame does: by cell, and the comparison is neither true nor false."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns

    def __eq__(self, other: object) -> "Table":  # type: ignore[override]
        return Table(equal=[isinstance(other, Table) and self.columns == other.columns])

    def __bool__(self) -> bool:
        raise ValueError("the truth of a table is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Row(dict[str, Any]):
    """A dictionary with attributes, of the application's own."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Task(enum.StrEnum):
    """Names of functions."""

    TAG = "tag_photo"


class OldTask(str, enum.Enum):  # noqa: UP042  (as many have it: its text is not its value)
    """The same before Python 3.11."""

    TAG = "tag_photo"


MAIL = Mail(to=["a@example.org"], token=SecretStr("s"), attachment=b"\x00\xff")
VALUES = [
    MAIL,
    Mail(to=[], token=SecretStr(""), attachment=b"", reply=MAIL),
    Cutout((1.5, -2.0), dt.timedelta(minutes=3)),
    uuid.UUID(int=7),
    Decimal("12.340"),
    dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC),
    Row(id=1, nested=(1, Row(x=2))),
    frozenset({1, 2}),
    float("inf"),
    None,
    Task.TAG,
    ValueError,
]


async def echo(_ctx: Ctx, value: Any) -> Any:
    """Return the argument."""
    return value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_what_is_pickled_arrives_with_its_class(make: Make, redis: ArqRedis, value: Any) -> None:
    """In the function, in the result, and among the result's arguments; by position and by name."""
    by_position = await redis.enqueue_job("echo", value)
    by_name = await redis.enqueue_job("echo", value=value)
    assert 2 == await make(echo).run_check()
    for job, args, kwargs in ((by_position, (value,), {}), (by_name, (), {"value": value})):
        assert job is not None
        info = await job.result_info()
        assert info is not None
        assert (value, type(value)) == (info.result, type(info.result))
        assert (args, kwargs) == (info.args, info.kwargs)


async def test_a_value_that_cannot_be_compared_arrives_too(make: Make, redis: ArqRedis) -> None:
    """A table, such as a DataFrame, raises an error if it is asked whether it is true."""
    job = await redis.enqueue_job("echo", Table(score=[1.0, 2.0]))
    assert 1 == await make(echo).run_check()
    assert job is not None
    assert {"score": [1.0, 2.0]} == (await job.result(timeout=5)).columns


async def test_positions_defaults_and_the_rest_are_bound_as_python_binds_them(make: Make, redis: ArqRedis) -> None:
    """The ten positions of keep's task, defaults that are left out, `*args` and `**kwargs`."""

    async def bind(_ctx: Ctx, a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> tuple[Any, ...]:
        return a, b, rest, c, more

    calls: list[tuple[tuple[int, ...], dict[str, int]]] = [
        ((1,), {}),
        ((), {"a": 1, "b": 5}),
        (tuple(range(10)), {"c": 9, "d": 4}),
    ]
    jobs = [await redis.enqueue_job("bind", *args, **kwargs) for args, kwargs in calls]
    assert 3 == await make(func(bind, name="bind")).run_check()
    expected = [(1, 2, (), 3, {}), (1, 5, (), 3, {}), (0, 1, tuple(range(2, 10)), 9, {"d": 4})]
    assert expected == [await job.result(timeout=5) for job in jobs if job is not None]


async def test_arguments_that_do_not_fit_are_the_functions_error(make: Make, redis: ArqRedis) -> None:
    """Python's own TypeError, at the client."""
    job = await redis.enqueue_job("echo", 1, 2)
    await make(echo).async_run()
    assert job is not None
    with pytest.raises(TypeError, match="positional argument"):
        await job.result(timeout=5)


async def test_a_hidden_argument_is_taken_off_by_the_applications_wrapper(make: Make, redis: ArqRedis) -> None:
    """A correlation id, which the enqueuing side adds to each job and a wrapper of each function takes off."""
    seen: list[str] = []

    def traced(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def call(ctx: Ctx, *args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs.pop("_correlation_id"))
            return await function(ctx, *args, **kwargs)

        return call

    job = await redis.enqueue_job("echo", 3, _correlation_id="c-17")
    assert 1 == await make(traced(echo)).run_check()
    assert job is not None
    assert (3, ["c-17"]) == (await job.result(timeout=5), seen)


@pytest.mark.parametrize("name", [Task.TAG, OldTask.TAG])
async def test_a_function_is_named_by_a_member_of_an_enum(make: Make, redis: ArqRedis, name: str) -> None:
    """Where it is enqueued, and where it is registered."""
    job = await redis.enqueue_job(name, 3)
    assert 1 == await make(func(echo, name=name)).run_check()
    assert job is not None
    info = await job.result_info()
    assert info is not None
    assert ("tag_photo", 3) == (info.function, info.result)


class Tagger:
    """An object whose method is a job function."""

    def __init__(self, factor: int) -> None:
        self._factor = factor

    async def tag(self, _ctx: Ctx, number: int) -> int:
        """Return a product."""
        return self._factor * number


def _closure(factor: int) -> Any:
    async def tag(_ctx: Ctx, number: int) -> int:
        return factor * number

    return tag


async def multiply(factor: int, _ctx: Ctx, number: int) -> int:
    """Return a product."""
    return factor * number


@pytest.mark.parametrize(
    "function",
    [
        func(_closure(3), name="tag"),
        func(Tagger(3).tag, name="tag"),
        func(functools.partial(multiply, 3), name="tag"),
        func(func(_closure(3), name="tag")),
    ],
    ids=["closure", "method", "partial", "func of func"],
)
async def test_functions_of_every_kind_run(make: Make, redis: ArqRedis, function: Any) -> None:
    """What `func` takes."""
    job = await redis.enqueue_job("tag", 7)
    assert 1 == await make(function).run_check()
    assert job is not None
    assert 21 == await job.result(timeout=5)


async def test_functions_without_func_are_called_by_their_qualified_names(make: Make, redis: ArqRedis) -> None:
    """Methods and dotted strings, too."""
    method = await redis.enqueue_job("Tagger.tag", 7)
    imported = await redis.enqueue_job("asyncio.sleep", 7)
    await make(Tagger(3).tag, "asyncio.sleep").async_run()
    assert method is not None
    assert imported is not None
    assert 21 == await method.result(timeout=5)
    with pytest.raises(TypeError):  # its first argument is ctx, and no number of seconds
        await imported.result(timeout=5)


async def test_func_sets_timeout_results_and_tries_of_one_function(make: Make, redis: ArqRedis) -> None:
    """And the others keep those of the worker."""

    async def wait(_ctx: Ctx) -> None:
        await redis.blpop("nothing", timeout=20)

    async def again(_ctx: Ctx) -> None:
        raise arq.worker.Retry

    functions = [
        func(wait, name="wait", timeout=0.01),
        func(again, name="again", max_tries=2),
        func(echo, name="short", keep_result=dt.timedelta(seconds=90)),
        func(echo, name="none", keep_result=0),
        func(echo, name="ever", keep_result_forever=True),
        echo,
    ]
    jobs = {name: await redis.enqueue_job(name, _job_id=name) for name in ("wait", "again")}
    for name in ("short", "none", "ever", "echo"):
        await redis.enqueue_job(name, 1, _job_id=name)
    await make(*functions, keep_result=600).async_run()
    with pytest.raises(TimeoutError):
        await jobs["wait"].result(timeout=5)  # type: ignore[union-attr]
    with pytest.raises(arq.worker.JobExecutionFailed, match="max 2 retries exceeded"):
        await jobs["again"].result(timeout=5)  # type: ignore[union-attr]
    kept = {name: await redis.ttl(f"arq:result:{name}") for name in ("short", "none", "ever", "echo")}
    assert (-2, -1) == (kept["none"], kept["ever"])
    assert 80 < kept["short"] <= 90
    assert 590 < kept["echo"] <= 600
