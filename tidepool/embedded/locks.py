"""Files that only one user can open, and their locks, by which processes agree on who starts and stops the servers."""

import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tidepool.embedded.place import EmbeddedServersError

log = logging.getLogger(__name__)

_QUIET_WAIT_S = 3.0
"""Seconds of waiting before the first log line: an ordinary start takes one second."""
POLL_S = 0.02


class PrivateFile:
    """A file in the data directory that only the directory's owner can open, and that processes use as a lock.

    Close it with `close` or at the end of a with block, which releases the lock. Child processes do not inherit *fd*.
    """

    def __init__(self, path: Path, flags: int = os.O_RDONLY) -> None:
        """Open the file with *flags*; create it if it is missing.

        Links, pipes and files of other users are refused: raises `OSError` or `EmbeddedServersError`.
        """
        self.path = path
        self.fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            _close_to_others(self.fd, path)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close the file, and release its lock unless a child process has inherited it."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        """Return itself; the file is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def try_lock(self, kind: int = fcntl.LOCK_EX) -> bool:
        """Take the lock without waiting; return whether that was possible.

        *kind* is `fcntl.LOCK_EX` (exclusive, the default) or `fcntl.LOCK_SH` (shared). A shared lock that cannot be
        made exclusive is released.
        """
        try:
            fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(self, wait_s: float, kind: int = fcntl.LOCK_EX) -> None:
        """Take the lock; log a warning if that takes more than three seconds. *kind* is as in `try_lock`.

        Raises `EmbeddedServersError` if the lock is not free within *wait_s* seconds.
        """
        quiet_s = min(wait_s, _QUIET_WAIT_S)
        if wait_until(lambda: self.try_lock(kind), quiet_s):
            return
        log.warning("waiting for the process that holds %s: it starts or stops the servers", self.path)
        if not wait_until(lambda: self.try_lock(kind), wait_s - quiet_s):
            raise EmbeddedServersError(f"another process has held {self.path} for {wait_s:.0f} s")

    def unlock(self) -> None:
        """Release the lock."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)


def wait_until(condition: Callable[[], bool], wait_s: float) -> bool:
    """Wait up to *wait_s* seconds until *condition* is true; return whether it became true."""
    deadline_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _close_to_others(file: int, path: Path) -> None:
    """Let only the owner of its directory access an open file.

    Raises `EmbeddedServersError` if the file is another user's, has several hard links, or is not a regular file.
    """
    found, above = os.fstat(file), path.parent.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in (os.geteuid(), above.st_uid):
        raise EmbeddedServersError(f"{path} is not a file of user {above.st_uid}: remove it")
    if os.geteuid() == 0:
        os.fchown(file, above.st_uid, above.st_gid)
    if os.geteuid() in (0, found.st_uid):
        os.fchmod(file, 0o600)
