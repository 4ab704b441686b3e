"""The locks by which processes agree on who starts and stops the servers; see the package."""

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from worker.embedded.place import EmbeddedServersError

LOCK_WAIT_S = 240.0
"""How long to wait for others who start or stop the servers; longer than any one of them can take."""
POLL_S = 0.02


@contextmanager
def start_lock(home: Path) -> Generator[None, None, None]:
    """Start, stop or look at the servers of *home* alone. Raises `EmbeddedServersError` after LOCK_WAIT_S."""
    fd = open_lock(home / "start.lock")
    try:
        if not wait_until(lambda: try_flock(fd), LOCK_WAIT_S):
            raise EmbeddedServersError(f"another process has been starting or stopping for {LOCK_WAIT_S:.0f} s: {home}")
        yield
    finally:
        os.close(fd)


def open_lock(path: Path) -> int:
    """Open a lock's file anew: each open has a lock of its own, and no program that we start inherits it."""
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def try_flock(fd: int) -> bool:
    """Take the lock exclusively if nobody has it; return whether it was free."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until(condition: Callable[[], bool], wait_s: float) -> bool:
    """Wait for *condition*, at the most *wait_s*; return whether it came true."""
    deadline_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
