"""Where the servers of a data directory are, and whom they run as.

PostgreSQL refuses to run as root: for root, both servers run as the system user `pgserver`, or as the user
whom the data belong to.
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
    """The embedded servers cannot be had; the text says why, with the end of the server's log where it has one."""


@dataclass(frozen=True)
class Urls:
    """Where the two servers of a data directory are."""

    database: str
    redis: str


class Account(NamedTuple):
    """The user that the servers run as."""

    uid: int
    gid: int

    @classmethod
    def of_data(cls, home: Path) -> Self:
        """Return the user that the servers run as: our own, but for root the owner of the data or `pgserver`."""
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
        """Make *path* a directory that only this user enters; refuse one that somebody else has put there."""
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
        """Return the words that go before *program* so that it runs as this user and can use *paths*.

        Empty if that is our own user. No mode is changed to let it in: where a directory above is closed to it, root
        lends it the capability to pass through. Raises `EmbeddedServersError` where root has no such capability either.
        """
        if self.uid == os.geteuid():
            return ()
        if not _may_run(self, program):
            raise EmbeddedServersError(f"user {self.uid}, whom the server runs as, may not execute {program}")
        words = ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")
        closed = _closed_to(self, program, *paths)
        if closed is None:
            return words
        if not _has_read_search():
            raise EmbeddedServersError(
                f"{closed} is closed to user {self.uid}, whom the servers run as: "
                "use a DATA_DIR and a checkout outside of it, or run as an ordinary user"
            )
        return (*words, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

    def passwd_prefix(self) -> tuple[str, ...]:
        """Return the words that go before a program which looks its user up in the passwd database, as initdb does.

        Empty if this user has an entry; else it runs as the user `nobody` in a user namespace where that is this one.
        """
        try:
            pwd.getpwuid(self.uid)
        except KeyError:
            nobody = pwd.getpwnam("nobody")
            return ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
        return ()


def urls(data_dir: Path) -> Urls:
    """Return where the servers of *data_dir* are, or would be. Starts nothing and looks at nothing but links."""
    sockets = socket_dir(data_dir.resolve())
    # The port is part of a socket's name. It is spelled out because PGPORT may be set to another one.
    return Urls(f"postgresql://postgres@/tidepool?host={sockets}&port=5432", f"unix://{sockets}/redis.sock?db=0")


def socket_dir(home: Path) -> Path:
    """Return the directory of both sockets: in *home*, unless that is long or has characters that a URL would quote."""
    if re.fullmatch(r"[\w./-]{1,80}", str(home), re.ASCII):  # a socket's name may have 107 bytes, on macOS 103
        return home / "run"
    # Not tempfile.gettempdir(): two processes whose TMPDIR differ must meet.
    return Path("/tmp") / f"tidepool-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # noqa: S108 (made private)


def open_private(path: Path, flags: int) -> int:
    """Open a file of the data directory with *flags*, and create it if it is missing, for the directory's owner alone.

    Returns its descriptor, which no program inherits. Refuses links, pipes and files of other users.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(path, flags, 0o600)
    try:
        _close_to_others(file, path)
    except BaseException:
        os.close(file)
        raise
    return file


def _close_to_others(file: int, path: Path) -> None:
    """Give an open file to the owner of its directory alone. Raises `EmbeddedServersError` if it is not ours."""
    found, above = os.fstat(file), path.parent.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in (os.geteuid(), above.st_uid):
        raise EmbeddedServersError(f"{path} is not a file of user {above.st_uid}: remove it")
    if os.geteuid() == 0:
        os.fchown(file, above.st_uid, above.st_gid)
    if os.geteuid() in (0, found.st_uid):
        os.fchmod(file, 0o600)


def _may_run(account: Account, program: Path) -> bool:
    return bool(program.stat().st_mode & _execute_bit(account, program))


def _closed_to(account: Account, *paths: Path) -> Path | None:
    """Return a directory above *paths* that *account* cannot pass through; None where it gets to all of them."""
    above = {parent for path in paths for parent in (*path.parents, *path.resolve().parents)}
    closed = [folder for folder in above if not folder.stat().st_mode & _execute_bit(account, folder)]
    return min(closed, default=None)


def _execute_bit(account: Account, path: Path) -> int:
    """Return which bit of the mode of *path* says whether *account* may execute it or pass through it."""
    found = path.stat()
    if found.st_uid == account.uid:
        return stat.S_IXUSR
    return stat.S_IXGRP if found.st_gid == account.gid else stat.S_IXOTH


def _has_read_search() -> bool:
    """Whether this process may lend CAP_DAC_READ_SEARCH, the third bit of its bounding set; see capabilities(7)."""
    status = Path("/proc/self/status").read_text("utf-8")
    bounding = next((line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), "0")
    return bool(int(bounding, 16) & 1 << 2)
