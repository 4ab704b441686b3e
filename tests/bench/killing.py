"""Worker processes that get signals while they work; each is replaced at once."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

from lab.bench.drain import require_running, stop

WORKERS = 2
ENDED_S = 0.05
"""A job that ended so long before its worker was killed is not to run again."""
_GOLDEN = 0.618


@dataclass(frozen=True, slots=True)
class Kill:
    """A signal that the process *pid* got, and when that had ended; in seconds of the clock."""

    pid: int
    sent_s: float
    over_s: float


@dataclass
class Workers:
    """Two worker processes of one command, and the kills so far."""

    command: Sequence[str]
    environment: Mapping[str, str]
    kills: list[Kill] = field(default_factory=list)
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def kill(self, signals: Sequence[signal.Signals], seconds: float) -> None:
        """Send the signals to the workers in turn, and start another one in place of each.

        They are spread over so many *seconds*, always in the same way, and not in step with what is done periodically.
        Raises `CommandError` if a worker has ended by itself.
        """
        began_s = time.monotonic()
        for position, (number, place) in enumerate(zip(signals, cycle(range(WORKERS)), strict=False)):
            moment_s = seconds * (position + 1 + position * _GOLDEN % 1 / 2) / (len(signals) + 1)
            await asyncio.sleep(began_s + moment_s - time.monotonic())
            require_running(self._processes)
            killed, sent_s = self._processes[place], time.time()
            killed.send_signal(number)
            self._processes[place] = await self._start()
            await killed.wait()
            self.kills.append(Kill(killed.pid, sent_s, time.time()))

    async def start(self) -> None:
        """Start the workers."""
        self._processes.extend([await self._start() for _ in range(WORKERS)])

    async def stop(self) -> None:
        """Stop the workers, and wait until they have ended."""
        await stop(self._processes)

    async def _start(self) -> asyncio.subprocess.Process:
        quiet = asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(*self.command, stdout=quiet, stderr=quiet, env=self.environment)


@asynccontextmanager
async def working(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Workers]:
    """Run workers of this command while the block runs."""
    workers = Workers(command, environment)
    try:
        await workers.start()
        yield workers
    finally:
        await workers.stop()


def mixed(kills: int, terms: int) -> list[signal.Signals]:
    """Return so many SIGKILLs and SIGTERMs, both spread evenly."""
    counts = ((signal.SIGKILL, kills), (signal.SIGTERM, terms))
    places = [((place + 0.5) / count, number) for number, count in counts for place in range(count)]
    return [number for _, number in sorted(places)]
