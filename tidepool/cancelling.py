"""Detects a cancellation that a library has swallowed.

On Python 3.11 `asyncio.wait_for` can lose a cancel that arrives in the moment its own wait ends, and
libraries use it: the call returns as if there had been no cancellation. A loop that retries or polls would then go
on for ever. Python remembers the cancellation, so such loops check for it in each round.
"""

import asyncio


def heed_cancel() -> None:
    """Raise `CancelledError` if this task was cancelled but a library has swallowed the exception.

    A loop that retries or polls calls this in each round.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
