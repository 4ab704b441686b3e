"""The drill's arena: what it starts, it stops."""

from pathlib import Path

import pytest

from worker.drill.arena import Arena, Worker
from worker.terminal import CommandError


class CutShort(Arena):
    """An arena whose second worker cannot be started."""

    async def _start(self, worker: Worker) -> None:
        if worker.number:
            raise CommandError("cut short")
        await super()._start(worker)


async def test_a_start_that_is_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    """A redis-server stayed for good, without its directory, and with it the workers that had been started."""
    arena = CutShort(tmp_path, count=2, shots=1)
    with pytest.raises(CommandError, match="cut short"):
        async with arena:
            pytest.fail("it has started")
    first, _ = arena.workers
    assert first.process is not None
    assert first.process.returncode is not None
    assert arena.postgres.is_down()
    assert arena.redis_server.is_down()
