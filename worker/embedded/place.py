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
from typing import NamedTuple

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
    return Path("/tmp") / f"tidepool-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # noqa: S108 (make_private)


def make_private(path: Path, account: Account) -> None:
    """Make *path* a directory that only *account* enters; refuse one that somebody else has put there."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), account.uid):
        raise EmbeddedServersError(f"{path} is not a directory of user {account.uid}: remove it")
    os.chown(path, *account)
    path.chmod(0o700)


def account_of(home: Path) -> Account:
    """Return whom the servers run as: ourselves, but for root the owner of the data or the user `pgserver`."""
    with suppress(FileNotFoundError):
        found = (home / "postgres").stat()
        if os.geteuid() not in (0, found.st_uid):
            raise EmbeddedServersError(f"{home} has the data of user {found.st_uid}: use another DATA_DIR")
        if found.st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    try:
        user = pwd.getpwnam("pgserver")
    except KeyError:
        subprocess.run(("useradd", "--system", "pgserver"), check=True, capture_output=True)  # noqa: S607 (root's PATH)
        user = pwd.getpwnam("pgserver")
    return Account(user.pw_uid, user.pw_gid)


def let_in(account: Account, home: Path, *programs: Path) -> None:
    """Let *account*, where it is not ourselves, pass through the directories above the data and run the programs."""
    if account.uid == os.geteuid():
        return
    above = {home, *home.parents, *(parent for path in programs for parent in path.parents)}
    opened = [str(path) for path in above if _grant(path, 0o001)]
    if opened:
        log.info("user %s may now pass through %s", account.uid, ", ".join(sorted(opened)))
    for path in programs:
        for file in (path, *path.rglob("*")):
            _grant(file, 0o005 if file.stat().st_mode & stat.S_IXUSR else 0o004)


def _grant(path: Path, bits: int) -> bool:
    """Add *bits* to the mode of *path*; return whether one was missing."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits == bits:
        return False
    path.chmod(mode | bits)
    return True
