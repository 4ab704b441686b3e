"""Who uses the servers: the first one in starts them, the last one out stops them."""

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
    """One user of the running servers. Leaving it, at the latest when the process exits, may stop them."""

    def __init__(self, home: Path, members_fd: int) -> None:
        """Take over *members_fd*, which holds members.lock. Called by `join`."""
        self.urls = urls(home)
        self._home = home
        self._members_fd = members_fd
        self._process_id = os.getpid()
        self._left = False
        atexit.register(self.leave)

    def leave(self) -> None:
        """Leave; the last one out stops both servers and waits until they are gone. A second call does nothing."""
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
        """Return itself: it is a member already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self.leave()


def join(data_dir: Path) -> Membership:
    """Become a member of the servers of *data_dir*, which are started where they do not run.

    Blocks until both serve, at the most START_WAIT_S each, and while others start or stop them. Raises
    `EmbeddedServersError`.
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
    """Make the directory if it is missing, closed to other users. One that is there stays as its owner made it."""
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        Account.of_data(home).make_private(home)


def _start(home: Path, members_fd: int) -> list[str]:
    """Become a member and bring up what does not run; return the names of the servers that were started."""
    # ours hold it exclusively under start.lock only
    wait_for_lock(members_fd, home / "members.lock", STOP_WAIT_S, fcntl.LOCK_SH)
    return [server.name for server in servers(home) if _bring_up(server)]


def _bring_up(server: "Server") -> bool:
    """Wait until *server* serves, starting it where no process of it is left; return whether it was started."""
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
    """Give the membership up; stop the servers if it was the last. start.lock is held."""
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
    """Return the servers of *home*, running or not."""
    return (EmbeddedRedis(home), Postgres(home))
