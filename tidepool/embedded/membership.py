"""Keeps track of the processes that use the embedded servers: the first starts them, and the last stops them."""

import atexit
import fcntl
import logging
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tidepool.embedded.locks import POLL_S, open_lock, start_lock, try_flock, wait_for_lock, wait_until
from tidepool.embedded.place import Account, EmbeddedServersError, socket_dir, urls
from tidepool.embedded.postgres import Postgres
from tidepool.embedded.redis import EmbeddedRedis
from tidepool.embedded.server import START_WAIT_S, Server

STOP_WAIT_S = 30.0

log = logging.getLogger(__name__)


class Membership:
    """Registers this process as a user of the embedded servers until `leave`, the end of a with block, or its exit.

    The servers stop when their last user leaves. *urls* has their addresses.
    """

    def __init__(self, home: Path, members_fd: int) -> None:
        """Take over the open file *members_fd*, which holds a shared lock of members.lock. Only `join` calls this."""
        self.urls = urls(home)
        self._home = home
        self._members_fd = members_fd
        self._process_id = os.getpid()
        self._left = False
        atexit.register(self.leave)

    def leave(self) -> None:
        """End this process's use of the servers. If it was their last user, stop both and wait until they have stopped.

        Logs a warning if that fails. A second call does nothing, nor does a call in a forked child.
        """
        if self._left or os.getpid() != self._process_id:  # a forked copy is no member: the original still is
            return
        self._left = True
        atexit.unregister(self.leave)
        try:
            with start_lock(self._home):
                _stop_if_last(self._home, self._members_fd)
        except (EmbeddedServersError, OSError) as error:
            log.warning("left the embedded servers without stopping them: %s", error)
        finally:
            os.close(self._members_fd)

    def __enter__(self) -> Self:
        """Return itself; the process is registered already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End this process's use of the servers; see `leave`."""
        self.leave()


def join(data_dir: Path) -> Membership:
    """Start the servers of *data_dir* unless they are running, and register this process as a user of them.

    Blocks until both servers answer, up to START_WAIT_S seconds each, and while other processes start or stop them.
    Returns the membership, which the caller ends with `leave`. Raises `EmbeddedServersError`.
    """
    began_s = time.monotonic()
    home = data_dir.resolve()
    try:
        _make(home)
        with start_lock(home):
            members_fd = open_lock(home / "members.lock")
            try:
                started = _start(home, members_fd)
            except BaseException:
                _stop_if_last(home, members_fd)
                os.close(members_fd)
                raise
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedServersError(f"the embedded servers cannot use {home}: {error}") from error
    verb = f"started {' and '.join(started)} of" if started else "joined"
    log.info("%s the embedded servers in %s after %.1f s", verb, home, time.monotonic() - began_s)
    return Membership(home, members_fd)


def _make(home: Path) -> None:
    """Create the data directory *home* if it is missing, without access for other users.

    An existing directory keeps its permissions.
    """
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        Account.of_data(home).make_private(home)


def _start(home: Path, members_fd: int) -> list[str]:
    """Register this process and start the servers that are not running; return the names of those started."""
    # ours hold it exclusively under start.lock only
    wait_for_lock(members_fd, home / "members.lock", STOP_WAIT_S, fcntl.LOCK_SH)
    return [server.name for server in servers(home) if _bring_up(server)]


def _bring_up(server: "Server") -> bool:
    """Start *server* unless it is running, and wait until it is ready; return whether it was started."""
    started = False
    deadline_s = time.monotonic() + START_WAIT_S
    while time.monotonic() < deadline_s:
        if server.is_down():
            if started:
                raise server.error("ended while it started")
            server.start()
            started = True
        if server.is_ready():
            return started
        time.sleep(POLL_S)
    raise server.error(f"runs, but did not serve within {START_WAIT_S:.0f} s")


def _stop_if_last(home: Path, members_fd: int) -> None:
    """Release members.lock, and stop the servers if this was their last user. The caller holds start.lock."""
    if not try_flock(members_fd):  # a failed attempt to make a shared lock exclusive has given it back, too
        fcntl.flock(members_fd, fcntl.LOCK_UN)
        return
    running = [server for server in servers(home) if not server.is_down()]
    for server in running:
        server.ask_to_stop()
    for server in running:
        if not wait_until(server.is_down, STOP_WAIT_S):
            log.warning("%s is still stopping after %.0f s", server.name, STOP_WAIT_S)
    with suppress(OSError):
        socket_dir(home).rmdir()
    log.info("stopped the embedded servers in %s", home)


def servers(home: Path) -> tuple[Server, ...]:
    """Return the objects that control the Redis and the PostgreSQL of the data directory *home*, running or not."""
    return (EmbeddedRedis(home), Postgres(home))
