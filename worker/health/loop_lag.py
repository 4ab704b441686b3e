"""How late the event loop runs what is due: the sign of code that blocks it."""

import asyncio
from bisect import bisect_left
from typing import Any

from worker.db.figures import BOUNDS_US

_PROBE_INTERVAL_S = 0.1


class LoopLag:
    """Sleeps for a tenth of a second, over and over, and measures by how much it wakes too late (microseconds)."""

    def __init__(self) -> None:
        self.us_sum = 0
        self.us_max = 0
        self.count = 0
        self.histogram = [0] * (len(BOUNDS_US) + 1)

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _PROBE_INTERVAL_S
            await asyncio.sleep(_PROBE_INTERVAL_S)
            self._add(int((loop.time() - due) * 1e6))

    def take_figures(self) -> dict[str, Any]:
        """Return the cumulative figures, and the greatest lag since the last call."""
        figures = {
            "loop_lag_us_sum": self.us_sum,
            "loop_lag_us_max": self.us_max,
            "loop_lag_count": self.count,
            "loop_lag_hist": list(self.histogram),
        }
        self.us_max = 0
        return figures

    def _add(self, lag_us: int) -> None:
        self.count += 1
        self.us_sum += max(0, lag_us)
        self.us_max = max(self.us_max, lag_us)
        self.histogram[bisect_left(BOUNDS_US, lag_us)] += 1
