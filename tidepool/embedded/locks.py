"""File locks that let processes agree on which of them starts and stops the embedded servers."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from tidepool.embedded.place import EmbeddedServersError, open_private

log = logging.getLogger(__name__)

LOCK_WAIT_S = 240.0
"""Max seconds to wait for another process that starts or stops the servers; longer than either can take."""
_QUIET_WAIT_S = 3.0
"""Seconds of waiting before the first log line: an ordinary start takes one second."""
POLL_S = 0.02


@contextmanager
def start_lock(home: Path) -> Generator[None, None, None]:
    """Hold the lock that a process needs to start, stop or check the servers of the data directory *home*.

    Waits up to LOCK_WAIT_S seconds for other processes, then raises `EmbeddedServersError`.
    """
    fd = open_lock(home / "start.lock")
    try:
        wait_for_lock(fd, home / "start.lock", LOCK_WAIT_S)
        yield
    finally:
        os.close(fd)


def wait_for_lock(fd: int, path: Path, wait_s: float, kind: int = fcntl.LOCK_EX) -> None:
    """Take the lock of the file *path*, open as *fd*; log a warning if that takes more than three seconds.

    *kind* is `fcntl.LOCK_EX` (exclusive) or `fcntl.LOCK_SH` (shared). Raises `EmbeddedServersError` after *wait_s*
    seconds.
    """
    quiet_s = min(wait_s, _QUIET_WAIT_S)
    if wait_until(lambda: try_flock(fd, kind), quiet_s):
        return
    log.warning("waiting for the process that holds %s: it starts or stops the servers", path)
    if not wait_until(lambda: try_flock(fd, kind), wait_s - quiet_s):
        raise EmbeddedServersError(f"another process has held {path} for {wait_s:.0f} s")


def open_lock(path: Path) -> int:
    """Open a lock file and return its descriptor, which has locks of its own. Other users cannot open the file."""
    return open_private(path, os.O_RDONLY)


def try_flock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a lock (of *kind*, by default exclusive) without waiting; return whether that was possible."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until(condition: Callable[[], bool], wait_s: float) -> bool:
    """Wait up to *wait_s* seconds until *condition* is true; return whether it became true."""
    deadline_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
