"""How often each address may ask: a token bucket an address, in memory that does not grow with them."""

import time
from collections import OrderedDict
from collections.abc import Callable

_BURST_S = 1.0
"""What an idle address has saved up, in seconds of its rate."""
_MOST_ADDRESSES = 10_000
"""The least recently seen are forgotten: their bucket would be full again anyway."""


class Rates:
    """Admits *per_second* requests a second from each address, and a second's worth at once."""

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cost_s = 1 / per_second
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()
        """The bucket as one number: when it will be full again."""

    def admit(self, address: str) -> bool:
        """Take a token out of the bucket of *address*; False where there is none."""
        now_s = self._clock()
        full_at_s = max(self._full_at_s.get(address, now_s), now_s) + self._cost_s
        if full_at_s - now_s > _BURST_S:
            return False
        self._full_at_s[address] = full_at_s
        self._full_at_s.move_to_end(address)
        if len(self._full_at_s) > _MOST_ADDRESSES:
            self._full_at_s.popitem(last=False)
        return True
