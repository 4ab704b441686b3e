"""Limits the rate of each caller with a token bucket; memory is bounded whatever the number of callers."""

import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_CALLERS = 10_000
"""Max callers that are remembered. The least recent is forgotten first: its bucket would be full again anyway."""


class Rates:
    """A rate limiter: admits *per_second* requests a second from each caller.

    A caller may send *burst_s* seconds' worth of requests at once.
    """

    def __init__(self, per_second: float, *, burst_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._cost_s = 1 / per_second
        self._burst_s = burst_s
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()
        """The bucket as one number: when it will be full again."""

    def has_one(self, caller: str) -> bool:
        """Return whether *caller* may send a request now, without counting one."""
        return self._after(caller) is not None

    def admit(self, caller: str) -> bool:
        """Count a request of *caller* and return True; return False if it is over the rate."""
        full_at_s = self._after(caller)
        if full_at_s is None:
            return False
        self._full_at_s[caller] = full_at_s
        self._full_at_s.move_to_end(caller)
        if len(self._full_at_s) > _MAX_CALLERS:
            self._full_at_s.popitem(last=False)
        return True

    def _after(self, caller: str) -> float | None:
        now_s = self._clock()
        full_at_s = max(self._full_at_s.get(caller, now_s), now_s) + self._cost_s
        return None if full_at_s - now_s > self._burst_s else full_at_s
