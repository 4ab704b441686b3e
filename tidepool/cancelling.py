"""Heeding a cancel that was swallowed.

On Python 3.11 `asyncio.wait_for` can lose a cancel that arrives in the moment its own wait ends, and
libraries use it: the call returns as if nothing had been said. A loop that retries or polls would then go
on for ever. Python remembers that the task was told, so such loops ask in each round.
"""

import asyncio


def heed_cancel() -> None:
    """Raise `CancelledError` if this task was told to stop, whatever became of that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
