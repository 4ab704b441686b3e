"""Concurrent users, each of which sends a request, waits for its outcome, and sends the next one."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypedDict

from lab.percentiles import percentiles

Send = Callable[[int, int], Awaitable[str]]
"""A function that sends one request, given the number of the user and of the request.

It returns the error, or an empty string if the request succeeded.
"""


@dataclass
class RequestTally:
    """The results of all requests: latencies of those that succeeded, in milliseconds, and counts of each error."""

    latencies_ms: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter[str])
    seconds: float = 0.0

    def figures(self) -> "RequestFigures":
        """Return the figures of all requests, for a report."""
        failed = self.faults.total()
        asked = len(self.latencies_ms) + failed
        return {
            "requests": asked,
            "succeeded": len(self.latencies_ms),
            "failed": failed,
            "faults": dict(self.faults),
            "success_rate": round(len(self.latencies_ms) / asked, 4) if asked else 0.0,
            "seconds": round(self.seconds, 3),
            "per_second": round(len(self.latencies_ms) / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms": _summary(self.latencies_ms),
        }


class RequestFigures(TypedDict):
    """The report on the requests of a load test: counts, times in seconds, and a summary of the latencies in ms."""

    requests: int
    succeeded: int
    failed: int
    faults: dict[str, int]
    success_rate: float
    seconds: float
    per_second: float
    latency_ms: dict[str, float]


async def run_users(send: Send, *, users: int, requests: int, rate: float | None = None) -> RequestTally:
    """Let *users* concurrent users send *requests* requests each, and return the results.

    Without a *rate* each user sends its next request when it has the outcome of the last. With a *rate*, request n of
    all users together is due n / *rate* seconds after the start, and its latency counts from then. So the time that a
    request is late, because the service kept its user waiting, is part of its latency; to leave it out would be what
    Gil Tene calls coordinated omission.
    """
    tally, begun_s = RequestTally(), time.perf_counter()
    schedule = iter(range(users * requests))
    async with asyncio.TaskGroup() as group:
        for user in range(users):
            mine = iter(range(user * requests, (user + 1) * requests))
            group.create_task(_user(send, user, schedule if rate else mine, tally, _due(begun_s, rate)))
    tally.seconds = time.perf_counter() - begun_s
    return tally


def _due(begun_s: float, rate: float | None) -> Callable[[int], float | None]:
    """Return a function that returns when a request is due, on the clock of `perf_counter`; None if at once."""
    return lambda number: None if rate is None else begun_s + number / rate


async def _user(
    send: Send, user: int, numbers: Iterator[int], tally: RequestTally, due: Callable[[int], float | None]
) -> None:
    """Send the requests that *numbers* yields, one after the other. With a schedule, all users share *numbers*."""
    for number in numbers:
        since_s = due(number)
        if since_s is None:
            since_s = time.perf_counter()
        else:
            await asyncio.sleep(max(0.0, since_s - time.perf_counter()))
        fault = await send(user, number)
        if fault:
            tally.faults[fault] += 1
        else:
            tally.latencies_ms.append((time.perf_counter() - since_s) * 1000)


def _summary(latencies_ms: list[float]) -> dict[str, float]:
    if not latencies_ms:
        return {}
    quantiles = percentiles(latencies_ms)
    return {
        "mean": round(statistics.fmean(latencies_ms), 2),
        "median": quantiles["p50"],
        "min": round(min(latencies_ms), 2),
        "max": round(max(latencies_ms), 2),
        "p95": quantiles["p95"],
        "p99": quantiles["p99"],
    }
