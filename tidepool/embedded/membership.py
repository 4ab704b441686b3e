"""Keeps track of the processes that use the embedded servers: the first one starts them, the last one stops them."""

import atexit
import fcntl
import logging
import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tidepool.embedded.locks import POLL_S, PrivateFile, wait_until
from tidepool.embedded.place import Account, EmbeddedServersError, Urls
from tidepool.embedded.postgres import Postgres
from tidepool.embedded.redis import EmbeddedRedis
from tidepool.embedded.server import START_WAIT_S, Server

LOCK_WAIT_S = 240.0
"""Max seconds to wait for another process that starts or stops the servers; longer than either can take."""
STOP_WAIT_S = 30.0
"""Max seconds to wait until a server has stopped, or until no other process checks whether it was the last member."""

log = logging.getLogger(__name__)


class _Membership:
    """Registers this process as a user of the embedded servers until `leave`, the end of a with block, or its exit.

    The servers stop when their last user leaves. *urls* has their addresses.
    """

    def __init__(self, home: Path, members: PrivateFile) -> None:
        """Take over members.lock, which is open and has a shared lock. Only `join` calls this."""
        self.urls = Urls.embedded(home)
        self._home = home
        self._members = members
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
            with _start_lock(self._home):
                _stop_if_last(self._home, self._members)
        except (EmbeddedServersError, OSError) as error:
            log.warning("left the embedded servers without stopping them: %s", error)
        finally:
            self._members.close()

    def __enter__(self) -> Self:
        """Return itself; the process is registered already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End this process's use of the servers; see `leave`."""
        self.leave()


def join(data_dir: Path) -> _Membership:
    """Start the servers of *data_dir* unless they are running, and register this process as a user of them.

    Blocks until both servers answer, up to START_WAIT_S seconds each, and while other processes start or stop them.
    Returns the membership, which the caller ends with `leave`. Raises `EmbeddedServersError`.
    """
    began_s = time.monotonic()
    home = data_dir.resolve()
    try:
        _make(home)
        with _start_lock(home):
            members = PrivateFile(home / "members.lock")
            try:
                started = _start(home, members)
            except BaseException:
                _stop_if_last(home, members)
                members.close()
                raise
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedServersError(f"the embedded servers cannot use {home}: {error}") from error
    verb = f"started {' and '.join(started)} of" if started else "joined"
    log.info("%s the embedded servers in %s after %.1f s", verb, home, time.monotonic() - began_s)
    return _Membership(home, members)


def _make(home: Path) -> None:
    """Create the data directory *home* if it is missing, without access for other users.

    An existing directory keeps its permissions.
    """
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        Account.of_data(home).make_private(home)


@contextmanager
def _start_lock(home: Path) -> Generator[None]:
    """Hold the lock that a process needs to start, stop or check the servers of the data directory *home*.

    Waits up to LOCK_WAIT_S seconds for other processes, then raises `EmbeddedServersError`.
    """
    with PrivateFile(home / "start.lock") as file:
        file.lock(LOCK_WAIT_S)
        yield


def _start(home: Path, members: PrivateFile) -> list[str]:
    """Register this process and start the servers that are not running; return the names of those started."""
    members.lock(STOP_WAIT_S, fcntl.LOCK_SH)  # others hold it exclusively under start.lock only
    return [server.name for server in _servers(home) if _bring_up(server)]


def _bring_up(server: Server) -> bool:
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


def _stop_if_last(home: Path, members: PrivateFile) -> None:
    """Release members.lock, and stop the servers if this was their last user. The caller holds start.lock."""
    if not members.try_lock():
        members.unlock()
        return
    running = [server for server in _servers(home) if not server.is_down()]
    for server in running:
        server.ask_to_stop()
    for server in running:
        if not wait_until(server.is_down, STOP_WAIT_S):
            log.warning("%s is still stopping after %.0f s", server.name, STOP_WAIT_S)
    with suppress(OSError):
        Urls.socket_dir(home).rmdir()
    log.info("stopped the embedded servers in %s", home)


def _servers(home: Path) -> tuple[Server, ...]:
    """Return the objects that control the Redis and the PostgreSQL of the data directory *home*, running or not."""
    return (EmbeddedRedis(home), Postgres(home))
