"""Defines the base class of the embedded Redis and PostgreSQL, which finds, starts, checks and stops a server."""

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from tidepool.embedded.locks import PrivateFile
from tidepool.embedded.place import Account, EmbeddedServersError, Urls

START_WAIT_S = 60.0
"""Max seconds until a started server is ready: after a crash it first replays its write-ahead or append-only log."""
PROBE_WAIT_S = 5.0
LOG_TAIL_LINES = 15


class Server(ABC):
    """The base class of an embedded server (PostgreSQL or Redis): its data directory, its log file, and its lock.

    The processes of the server hold the lock while they run.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """The Python package that has the server's programs."""
    folder: ClassVar[str]
    """The folder of the programs in the package."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sockets = Urls.socket_dir(home)
        self.data = home / self.name
        self.log = home / f"{self.name}.log"
        self.lock = home / f"{self.name}.lock"

    @classmethod
    def program(cls, name: str) -> Path:
        """Return the path of a program in the server's package, such as psql; does not import the package.

        Raises `EmbeddedServersError` if the package is not installed or does not have it.
        """
        spec = find_spec(cls.package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (found := Path(place) / cls.folder / name).exists():
                return found
        raise EmbeddedServersError(
            f"{cls.package} is missing: pip install 'arq-tidepool[embedded]', or set DATABASE_URL and REDIS_URL"
        )

    @staticmethod
    def environment() -> dict[str, str]:
        """Return a copy of this process's environment without variables such as PGPORT, which PostgreSQL would obey."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PG")}

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
        """Return whether no process of the server is running. Hold `start.lock` during the call.

        The server's processes hold the server's lock while they run; this call tries to take that lock for a moment.
        """
        with PrivateFile(self.lock) as lock:
            return lock.try_lock()

    def start(self) -> None:
        """Start the server in the background, in a session of its own, so that Ctrl-C in the terminal does not stop it.

        Returns before it is ready. Raises `EmbeddedServersError` if it cannot be started.
        """
        account = Account.of_data(self.home)
        account.make_private(self.sockets)
        command = self.prepare(account)
        with PrivateFile(self.lock) as lock:
            if not lock.try_lock():
                raise self.error("runs already")
            self.run(("/bin/sh", "-c", 'exec "$@" &', "sh", *command), pass_fds=(lock.fd,))

    def run(self, command: Sequence[str | Path], pass_fds: tuple[int, ...] = ()) -> None:
        """Run *command* to its end, with its output appended to the log. Raises `EmbeddedServersError` if it fails.

        The command inherits the file descriptors *pass_fds*.
        """
        with PrivateFile(self.log, os.O_WRONLY | os.O_APPEND) as output:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output.fd,
                stderr=output.fd,
                cwd=self.home,
                env=self.environment(),
                start_new_session=True,
                pass_fds=pass_fds,
                timeout=START_WAIT_S,
                check=False,
            ).returncode
        if code:
            raise self.error(f"could not be started: {Path(command[0]).name} ended with {code}")

    def error(self, what: str) -> EmbeddedServersError:
        """Return an `EmbeddedServersError` with the text *what*, followed by the last lines of the server's log."""
        with suppress(OSError), PrivateFile(self.log) as file, open(file.fd, errors="replace", closefd=False) as log:
            tail = log.read().splitlines()[-LOG_TAIL_LINES:]
            what = "\n  ".join((f"{what}. The end of {self.log}:", *tail))
        return EmbeddedServersError(f"{self.name} {what}")
