"""Retries calls whose errors are temporary, with the delays of a `RetryPolicy`.

await retry(call, RetryPolicy(first_s=0.2, max_s=1.0, deadline_s=30.0), is_passing)
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TypeVar

import structlog

from tidepool.cancelling import heed_cancel

log = structlog.get_logger(__name__)

T = TypeVar("T")

_START_FIRST_S, _START_MAX_S = 0.2, 1.0
"""First and max delay in seconds between attempts to reach a server: it is noticed within a second of its start."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between two attempts, in seconds, and when to give up.

    The delays are *first_s*, then each *factor* times the one before, up to *max_s* (exponential backoff). Each is
    shortened by a random part of it, at most the share *jitter* (0 to 1). No attempt begins later than *deadline_s*
    after the call of `retry`.
    """

    first_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.0
    deadline_s: float = math.inf

    def delays(self) -> Iterator[float]:
        """Yield the delays in seconds before the second attempt, the third, and so on; the iterator never ends."""
        for delay_s in accumulate(repeat(self.factor), lambda d, f: min(d * f, self.max_s), initial=self.first_s):
            yield delay_s * random.uniform(1.0 - self.jitter, 1.0)


async def retry(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    passes: Callable[[Exception], bool],
    on_failure: Callable[[Exception, int], None] = lambda _error, _attempt: None,
) -> T:
    """Call *call* until it succeeds, and return its result.

    *call* must be safe to repeat. *passes* returns whether an error is temporary, so that a retry can help.
    *on_failure* is called before each delay, with the error and the number of the attempt, counted from 1. Raises the
    last error if it is not temporary, or when the policy's deadline is over.
    """
    loop = asyncio.get_running_loop()
    gives_up_s = loop.time() + policy.deadline_s
    for attempt, delay_s in enumerate(policy.delays(), 1):
        heed_cancel()
        try:
            return await call()
        except Exception as error:
            if not passes(error) or loop.time() + delay_s > gives_up_s:
                raise
            on_failure(error, attempt)
        await asyncio.sleep(delay_s)
    raise AssertionError("the delays have no end")


async def wait_for_server(
    call: Callable[[], Awaitable[T]],
    passes: Callable[[Exception], bool],
    *,
    server: str,
    address: str,
    patience_s: float | None,
) -> T:
    """Call *call*, an operation on a server, until it succeeds, and return its result; log only the first error.

    *passes* returns whether an error is temporary; any other is raised at once. *server* and *address* are shown in the
    log line. Raises the last error after *patience_s* seconds; None waits for ever.
    """

    def log_first(error: Exception, attempt: int) -> None:
        if attempt == 1:
            log.warning("server.waited_for", server=server, address=address, error=str(error))

    deadline_s = math.inf if patience_s is None else patience_s
    policy = RetryPolicy(first_s=_START_FIRST_S, max_s=_START_MAX_S, deadline_s=deadline_s)
    return await retry(call, policy, passes, log_first)
