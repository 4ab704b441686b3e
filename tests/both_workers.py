"""What the tests of both worker classes, arq's and ours, share: jobs, and the type of what makes workers."""

from collections.abc import Callable
from typing import Any

import arq.worker
from arq.worker import Retry

Make = Callable[..., arq.worker.Worker]


async def add(ctx: dict[Any, Any], first: int, second: int = 1) -> int:
    """Return the sum."""
    return first + second


async def fail(ctx: dict[Any, Any]) -> None:
    """Raise."""
    raise ValueError("on purpose")


async def again(ctx: dict[Any, Any]) -> int:
    """Ask for another try until the third."""
    if ctx["job_try"] < 3:
        raise Retry(defer=0.01)
    return ctx["job_try"]
