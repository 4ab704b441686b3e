"""What the two servers have in common: a lock that tells whether one runs, a log, and how to start it."""

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
"""How long a server may take until it serves: after a crash it first replays its log."""
PROBE_WAIT_S = 5.0
LOG_TAIL_LINES = 15


class Server(ABC):
    """What the two servers have in common: a lock that tells whether one runs, a log, and how to start it."""

    name: ClassVar[str]

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sockets = socket_dir(home)
        self.data = home / self.name
        self.log = home / f"{self.name}.log"
        self.lock = home / f"{self.name}.lock"

    @abstractmethod
    def prepare(self, account: Account) -> Sequence[str | Path]:
        """Make the data directory ready; return the command that serves it as *account*."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Begin a stop that loses nothing."""

    def is_down(self) -> bool:
        """Whether no process of it is left. Asked under start.lock only: to ask is to take the lock for a moment."""
        lock_fd = open_lock(self.lock)
        try:
            return try_flock(lock_fd)
        finally:
            os.close(lock_fd)

    def start(self) -> None:
        """Start it in a session of its own, out of reach of a terminal's Ctrl-C, and as nobody's child."""
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
        """Run *command* to its end, writing to the log. Raises `EmbeddedServersError` where it fails."""
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
        """Return an error that says *what* happened, and what the log says."""
        with suppress(OSError), os.fdopen(open_private(self.log, os.O_RDONLY), errors="replace") as log:
            tail = log.read().splitlines()[-LOG_TAIL_LINES:]
            what = "\n  ".join((f"{what}. The end of {self.log}:", *tail))
        return EmbeddedServersError(f"{self.name} {what}")
