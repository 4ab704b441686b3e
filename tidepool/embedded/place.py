"""Determines the addresses, files and user accounts of the embedded servers.

PostgreSQL refuses to run as root. If this process runs as root, both servers run as the owner of the data, or as the
system user `pgserver`.
"""

import hashlib
import logging
import os
import pwd
import re
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

log = logging.getLogger(__name__)


class EmbeddedServersError(Exception):
    """The embedded servers cannot be used; the text says why and ends with the last lines of the server's log."""


@dataclass(frozen=True)
class Urls:
    """The URLs of a PostgreSQL server (*database*) and a Redis server (*redis*) that are used together."""

    database: str
    redis: str

    @classmethod
    def embedded(cls, data_dir: Path) -> Self:
        """Return the URLs of the embedded servers of *data_dir*, whether they are running or not. Starts nothing."""
        sockets = cls.socket_dir(data_dir.resolve())
        # The port is part of a socket's name. It is spelled out because PGPORT may be set to another one.
        return cls(f"postgresql://postgres@/tidepool?host={sockets}&port=5432", f"unix://{sockets}/redis.sock?db=0")

    @staticmethod
    def socket_dir(home: Path) -> Path:
        """Return the directory for the Unix sockets of both servers: `run` in the data directory *home*.

        If *home* is too long for a socket's path or has characters that a URL must encode, it is a directory in /tmp
        whose name has a hash of *home*.
        """
        if re.fullmatch(r"[\w./-]{1,80}", str(home), re.ASCII):  # a socket's name may have 107 bytes, on macOS 103
            return home / "run"
        # Not tempfile.gettempdir(): two processes whose TMPDIR differ must meet.
        return Path("/tmp") / f"tidepool-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # noqa: S108 (made private)


class Account(NamedTuple):
    """The user and the group, as ids, that the embedded servers run as."""

    uid: int
    gid: int

    @classmethod
    def of_data(cls, home: Path) -> Self:
        """Return the account that runs the servers: this process's own, or for root the data's owner or `pgserver`.

        Creates the system user `pgserver` if root needs it. Raises `EmbeddedServersError` if the files in the data
        directory *home* belong to another user.
        """
        with suppress(FileNotFoundError):
            found = (home / "postgres").stat()
            if os.geteuid() not in (0, found.st_uid):
                raise EmbeddedServersError(f"{home} has the data of user {found.st_uid}: use another DATA_DIR")
            if found.st_uid != 0:
                return cls(found.st_uid, found.st_gid)
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        try:
            user = pwd.getpwnam("pgserver")
        except KeyError:
            command = ("useradd", "--system", "pgserver")
            subprocess.run(command, check=True, capture_output=True)
            user = pwd.getpwnam("pgserver")
        return cls(user.pw_uid, user.pw_gid)

    def make_private(self, path: Path) -> None:
        """Create the directory *path* if it is missing, and let only this account use it.

        Raises `EmbeddedServersError` if another user owns it, or if *path* is not a directory.
        """
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise EmbeddedServersError(f"{path} is not a directory of user {self.uid}: remove it") from None
        try:  # by its descriptor: the name may be another directory's by now
            if os.fstat(directory).st_uid not in (os.geteuid(), self.uid):
                raise EmbeddedServersError(f"{path} is not a directory of user {self.uid}: remove it")
            os.fchown(directory, *self)
            os.fchmod(directory, 0o700)
        finally:
            os.close(directory)

    def prefix(self, program: Path, *paths: Path) -> tuple[str, ...]:
        """Return the command prefix with which *program* runs as this account and can reach *paths*.

        The prefix is empty for this process's own account. No permissions are changed: if a parent directory is closed
        to the account, root gives the program the capability CAP_DAC_READ_SEARCH. Raises `EmbeddedServersError` if root
        does not have that capability itself.
        """
        if self.uid == os.geteuid():
            return ()
        if not _may_run(self, program):
            raise EmbeddedServersError(f"user {self.uid}, as which the server runs, may not execute {program}")
        words = ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")
        closed = _closed_to(self, program, *paths)
        if closed is None:
            return words
        if not _has_read_search():
            raise EmbeddedServersError(
                f"user {self.uid}, as which the servers run, may not enter {closed}: "
                "use a DATA_DIR and a checkout outside of it, or run as an ordinary user"
            )
        return (*words, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

    def passwd_prefix(self) -> tuple[str, ...]:
        """Return the command prefix for a program that needs a passwd entry of its user, such as initdb.

        The prefix is empty if this account has an entry. Otherwise the program runs in a user namespace that shows the
        account as the user `nobody`.
        """
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            nobody = pwd.getpwnam("nobody")
            return ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
        return ()


def _may_run(account: Account, program: Path) -> bool:
    return bool(program.stat().st_mode & _execute_bit(account, program))


def _closed_to(account: Account, *paths: Path) -> Path | None:
    """Return a parent directory of *paths* that *account* may not enter; None if it can reach all of them."""
    above = {parent for path in paths for parent in (*path.parents, *path.resolve().parents)}
    closed = [folder for folder in above if not folder.stat().st_mode & _execute_bit(account, folder)]
    return min(closed, default=None)


def _execute_bit(account: Account, path: Path) -> int:
    """Return the bit of the mode of *path* that lets *account* execute the file or enter the directory."""
    found = path.stat()
    if found.st_uid == account.uid:
        return stat.S_IXUSR
    return stat.S_IXGRP if found.st_gid == account.gid else stat.S_IXOTH


def _has_read_search() -> bool:
    """Return whether this process may give CAP_DAC_READ_SEARCH to a program: bit 2 of its bounding set.

    See capabilities(7).
    """
    status = Path("/proc/self/status").read_text("utf-8")
    bounding = next((line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), "0")
    return bool(int(bounding, 16) & 1 << 2)
