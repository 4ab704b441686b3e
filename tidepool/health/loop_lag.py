"""Measures how late the event loop runs, which shows code that blocks the loop, or a CPU that other processes use."""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Callable

from tidepool.pool.figures import BOUNDS_US, empty_histogram
from tidepool.repeating import every

_PROBE_INTERVAL_S = 0.1
"""Seconds: short enough to catch a block of a tenth of a second, and 0.05 % of a core."""
_SCHEDSTAT = "/proc/thread-self/schedstat"


class _CpuWait:
    """Measures how long the thread that creates it was ready to run but waited for a CPU; on Linux only."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def __call__(self) -> int:
        """Return the waiting time since the thread started, in microseconds; 0 if it is not known."""
        return 0 if self._file is None else int(os.pread(self._file, 100, 0).split()[1]) // 1000

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class LoopLag:
    """Measures how late the event loop runs: sleeps for a tenth of a second, repeatedly, and records how late it wakes.

    All times are microseconds. *cpu_wait* returns for how long the loop's thread has waited for a CPU so far: this part
    of a lag is not caused by the process's own code. By default it is what Linux reports for the thread that creates
    this object.
    """

    def __init__(self, cpu_wait: Callable[[], int] | None = None) -> None:
        self.us_sum = 0
        self.us_max = 0
        self.count = 0
        self.histogram = empty_histogram()
        self.block_histogram = empty_histogram()
        """The lags without the time spent waiting for a CPU."""
        self._cpu_wait = cpu_wait or _CpuWait()
        self._waited_us = self._cpu_wait()

    async def run(self) -> None:
        """Measure the lag about ten times a second until cancelled."""
        await every(0.0, self._probe, "loop lag probe")

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + _PROBE_INTERVAL_S
        await asyncio.sleep(_PROBE_INTERVAL_S)
        self._add(int((loop.time() - due_s) * 1e6), self._cpu_wait())

    def take_figures(self) -> dict[str, int | list[int]]:
        """Return the lags measured so far as columns of `pool_snapshots`: totals, and the max since the last call."""
        figures = {
            "loop_lag_us_sum": self.us_sum,
            "loop_lag_us_max": self.us_max,
            "loop_lag_count": self.count,
            "loop_lag_hist": list(self.histogram),
            "loop_block_hist": list(self.block_histogram),
            "cpu_wait_us": self._cpu_wait(),
        }
        self.us_max = 0
        return figures

    def _add(self, lag_us: int, waited_us: int = 0) -> None:
        self.count += 1
        self.us_sum += max(0, lag_us)
        self.us_max = max(self.us_max, lag_us)
        self.histogram[bisect_left(BOUNDS_US, lag_us)] += 1
        self.block_histogram[bisect_left(BOUNDS_US, lag_us - (waited_us - self._waited_us))] += 1
        self._waited_us = waited_us
