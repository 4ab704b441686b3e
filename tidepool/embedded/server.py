"""Defines the base class of the embedded Redis and PostgreSQL, which starts, checks and stops a server."""

import fcntl
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tidepool.embedded.locks import open_lock, try_flock
from tidepool.embedded.place import Account, EmbeddedServersError, open_private, socket_dir
from tidepool.embedded.programs import environment

START_WAIT_S = 60.0
"""Max seconds until a started server is ready: after a crash it first replays its write-ahead or append-only log."""
PROBE_WAIT_S = 5.0
LOG_TAIL_LINES = 15


class Server(ABC):
    """An embedded server: its data directory, its log file, and a lock that its processes hold while they run."""

    name: ClassVar[str]

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sockets = socket_dir(home)
        self.data = home / self.name
        self.log = home / f"{self.name}.log"
        self.lock = home / f"{self.name}.lock"

    @abstractmethod
    def prepare(self, account: Account) -> Sequence[str | Path]:
        """Prepare the data directory, and return the command that runs the server as *account*."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server answers requests."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Ask the server to shut down without losing data; does not wait until it has stopped."""

    def is_down(self) -> bool:
        """Return whether no process of the server is running. Takes its lock for a moment; call it under start.lock."""
        lock_fd = open_lock(self.lock)
        try:
            return try_flock(lock_fd)
        finally:
            os.close(lock_fd)

    def start(self) -> None:
        """Start the server in the background, in a session of its own, so that Ctrl-C in the terminal does not stop it.

        Returns before it is ready. Raises `EmbeddedServersError` if it cannot be started.
        """
        account = Account.of_data(self.home)
        account.make_private(self.sockets)
        command = self.prepare(account)
        lock_fd = open_lock(self.lock)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.run(("/bin/sh", "-c", 'exec "$@" &', "sh", *command), pass_fds=(lock_fd,))
        finally:
            os.close(lock_fd)

    def run(self, command: Sequence[str | Path], pass_fds: tuple[int, ...] = ()) -> None:
        """Run *command* to its end, with its output appended to the log. Raises `EmbeddedServersError` if it fails.

        The command inherits the file descriptors *pass_fds*.
        """
        with os.fdopen(open_private(self.log, os.O_WRONLY | os.O_APPEND), "ab") as output:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=environment(),
                start_new_session=True,
                pass_fds=pass_fds,
                timeout=START_WAIT_S,
                check=False,
            ).returncode
        if code:
            raise self.error(f"could not be started: {Path(command[0]).name} ended with {code}")

    def error(self, what: str) -> EmbeddedServersError:
        """Return an `EmbeddedServersError` with the text *what*, followed by the last lines of the server's log."""
        with suppress(OSError), os.fdopen(open_private(self.log, os.O_RDONLY), errors="replace") as log:
            tail = log.read().splitlines()[-LOG_TAIL_LINES:]
            what = "\n  ".join((f"{what}. The end of {self.log}:", *tail))
        return EmbeddedServersError(f"{self.name} {what}")
