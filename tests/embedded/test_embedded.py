"""The embedded servers: who starts them, who stops them, and what they survive.

Each test has its own data directory, and the fixture sees to it that no server of it is left, which is
part of what every test asserts.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from redis import Redis, RedisError

from tidepool import embedded
from tidepool.embedded.locks import PrivateFile

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]
MEMBER = """
import sys
from pathlib import Path
from tidepool import embedded
membership = embedded.join(Path(sys.argv[1]))
Path(sys.argv[2]).touch()
sys.stdin.read()
"""
"""A process that joins, says so by a file, and exits without a word when its stdin is closed."""

IN_BACKGROUND = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""How a shell starts what is in its background: it lets it ignore Ctrl-C."""

Member = subprocess.Popen[bytes]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a data directory, of which no server may be left when the test is over."""
    path = tmp_path / "data"
    yield path
    left = servers_of(path)
    for process in left:
        process.kill()
    assert not left


@pytest.fixture
def start_member(data_dir: Path) -> Iterator[Callable[[Path], Member]]:
    """Give a function that starts a process which joins and then makes the file it is given."""
    members: list[Member] = []

    def start(joined: Path) -> Member:
        command = (sys.executable, "-c", MEMBER, str(data_dir), str(joined))
        members.append(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT))
        return members[-1]

    yield start
    for member in members:
        with member:
            member.kill()


def servers_of(data_dir: Path) -> list[psutil.Process]:
    """Return the PostgreSQL and Redis that serve *data_dir*, zombies excluded."""
    words = (f"-D {data_dir}/postgres", embedded.Urls.embedded(data_dir).redis.removeprefix("unix://").split("?")[0])
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if any(word in line for word in words):
            found.append(process)
    return found


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for *condition*, or fail after DEADLINE_S."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def sql(urls: embedded.Urls, query: str) -> Any:
    """Return the first value of *query*'s answer."""

    async def fetch() -> Any:
        connection = await asyncpg.connect(urls.database)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def redis(urls: embedded.Urls) -> Redis:
    """Return a client."""
    return Redis.from_url(urls.redis)


def postmaster(data_dir: Path) -> int:
    """Return PostgreSQL's process id."""
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def wait_joined(member: Member, joined: Path) -> None:
    """Wait until *member* has made the file *joined*."""
    wait_until(lambda: joined.exists() or member.poll() is not None)
    assert joined.exists(), "the member ended before it had joined"


def end(member: Member) -> None:
    """Let *member* exit as a program does that comes to its end."""
    member.communicate(timeout=DEADLINE_S)
    assert member.returncode == 0


def test_rows_and_queue_are_there_again_after_everybody_left(data_dir: Path) -> None:
    """What was written before the servers stopped is read after they started again; asking where starts nothing."""
    urls = embedded.Urls.embedded(data_dir)
    assert not data_dir.exists()
    with embedded.join(data_dir) as membership:
        assert membership.urls == urls == embedded.Urls.embedded(data_dir)
        assert sql(urls, "SELECT current_database() || current_setting('max_connections')") == "tidepool100"
        sql(urls, "CREATE TABLE kept AS SELECT 7 AS number")
        redis(urls).zadd("arq:queue", {"a-job": 1})
    assert not servers_of(data_dir)
    with embedded.join(data_dir):
        assert sql(urls, "SELECT number FROM kept") == 7
        assert redis(urls).zscore("arq:queue", "a-job") == 1


def test_only_the_last_one_out_stops_the_servers(data_dir: Path) -> None:
    """The servers outlive the member that started them, and a second leave by it takes nothing from the others."""
    first, second = embedded.join(data_dir), embedded.join(data_dir)
    first.leave()
    first.leave()
    assert sql(second.urls, "SELECT 1") == 1
    assert redis(second.urls).ping()
    second.leave()
    assert not servers_of(data_dir)
    assert not (data_dir / "run").exists()


def test_a_forked_copy_of_a_member_stops_nothing(data_dir: Path) -> None:
    """A child made by fork neither stops its parent's servers by its exit nor keeps them when the parent leaves."""
    membership = embedded.join(data_dir)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        membership.leave()
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    assert sql(membership.urls, "SELECT 1") == 1
    membership.leave()
    assert not servers_of(data_dir)
    os.close(writer)
    os.waitpid(child, 0)


def test_processes_that_start_at_the_same_moment_share_the_servers(
    data_dir: Path, start_member: Callable[[Path], Member], tmp_path: Path
) -> None:
    """Four processes race for a directory that does not exist yet; one of each server serves them all."""
    files = [tmp_path / f"joined-{number}" for number in range(4)]
    members = [start_member(file) for file in files]
    for member, file in zip(members, files, strict=True):
        wait_joined(member, file)
    assert len(servers_of(data_dir)) == 2
    assert sql(embedded.Urls.embedded(data_dir), "SELECT 1") == 1
    for member in members[:3]:
        end(member)
    assert redis(embedded.Urls.embedded(data_dir)).ping()
    end(members[3])
    assert not servers_of(data_dir)


def test_servers_of_a_killed_member_are_joined_and_stopped_by_the_next(
    data_dir: Path, start_member: Callable[[Path], Member], tmp_path: Path
) -> None:
    """SIGKILL leaves the servers running; who comes next finds the same ones and stops them as the last one out."""
    member = start_member(tmp_path / "joined")
    wait_joined(member, tmp_path / "joined")
    before = postmaster(data_dir)
    member.kill()
    member.wait(DEADLINE_S)
    assert len(servers_of(data_dir)) == 2
    with embedded.join(data_dir):
        assert postmaster(data_dir) == before
    assert not servers_of(data_dir)


@pytest.mark.parametrize(
    ("number", "status", "shell"),
    [(signal.SIGTERM, 143, ()), (signal.SIGINT, 130, ()), (signal.SIGTERM, 143, IN_BACKGROUND)],
)
def test_a_command_that_is_asked_to_stop_stops_its_servers(
    data_dir: Path, number: int, status: int, shell: tuple[str, ...]
) -> None:
    """As `docker stop` and a closed session tell it, also where a shell that started it let it ignore Ctrl-C."""
    ours = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    command = (*shell, sys.executable, "-m", "producer", "--jobs", "100000", "--rate", "1")
    with (data_dir.parent / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=ROOT, env={**ours, "DATA_DIR": str(data_dir)}, stderr=log, stdout=log)
    wait_until(lambda: has_queued(data_dir))

    running.send_signal(number)

    assert status == running.wait(DEADLINE_S)
    assert "Traceback" not in (data_dir.parent / "log").read_text()
    assert [] == servers_of(data_dir)


def has_queued(data_dir: Path) -> bool:
    """Return whether there is a job in the queue: the process that enqueued it is in the middle of its work."""
    try:
        with redis(embedded.Urls.embedded(data_dir)) as client:
            return bool(client.exists("arq:queue"))
    except RedisError:
        return False


def test_a_start_after_a_crash_is_not_misled_by_what_it_left(data_dir: Path) -> None:
    """Both servers are killed; then their old pid files name a live process of the same user, which is not PostgreSQL.

    As a pid that was given out anew after a restart of the machine, it made PostgreSQL refuse to start.
    """
    membership = embedded.join(data_dir)
    sql(membership.urls, "CREATE TABLE kept AS SELECT 7 AS number")
    owner = (data_dir / "postgres").stat()
    for server in servers_of(data_dir):
        server.send_signal(signal.SIGKILL)
    wait_until(lambda: not servers_of(data_dir))
    membership.leave()
    unrelated = subprocess.Popen(("/bin/cat",), stdin=subprocess.PIPE, user=None if os.geteuid() else owner.st_uid)
    for pid_file in (data_dir / "postgres" / "postmaster.pid", data_dir / "run" / ".s.PGSQL.5432.lock"):
        _, *rest = pid_file.read_text().splitlines(keepends=True)
        pid_file.write_text("".join((f"{unrelated.pid}\n", *rest)))
    assert (data_dir / "run" / "redis.sock").is_socket()
    with embedded.join(data_dir) as again:
        assert sql(again.urls, "SELECT number FROM kept") == 7
        assert redis(again.urls).ping()
    assert unrelated.poll() is None
    unrelated.communicate()


def test_a_member_whose_server_died_brings_it_back_for_all(data_dir: Path) -> None:
    """PostgreSQL is killed under a member: the next one to join starts it again, at the same place."""
    first = embedded.join(data_dir)
    before = postmaster(data_dir)
    os.kill(before, signal.SIGKILL)
    with embedded.join(data_dir) as second:
        assert postmaster(data_dir) != before
        assert sql(second.urls, "SELECT 1") == 1
    assert sql(first.urls, "SELECT 1") == 1
    first.leave()


def test_a_long_data_dir_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    """A directory whose name is too long for a socket works, and its short directory is ours alone and goes again."""
    data_dir = tmp_path / ("long-" * 40) / "a space, and $(more)"
    urls = embedded.Urls.embedded(data_dir)
    sockets = Path(urls.redis.removeprefix("unix://").split("?")[0]).parent
    with embedded.join(data_dir):
        assert sql(urls, "SELECT 1") == 1
        assert redis(urls).ping()
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()
    assert not servers_of(data_dir)


def test_somebody_elses_socket_directory_is_refused(tmp_path: Path) -> None:
    """A link that waits under the name of the socket directory is an error, not a way to lead the sockets astray."""
    data_dir = tmp_path / ("long-" * 40)
    sockets = Path(embedded.Urls.embedded(data_dir).redis.removeprefix("unix://").split("?")[0]).parent
    sockets.symlink_to(tmp_path)
    try:
        with pytest.raises(embedded.EmbeddedServersError, match="is not a directory of user"):
            embedded.join(data_dir)
    finally:
        sockets.unlink()


def test_a_server_that_cannot_start_is_an_error_with_the_end_of_its_log(data_dir: Path) -> None:
    """The error comes when PostgreSQL has ended, not after a minute, and Redis is not left behind."""
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(embedded.EmbeddedServersError, match=r"(?s)postgres ended while it started.*postgresql.conf"):
        embedded.join(data_dir)
    assert not servers_of(data_dir)


def test_missing_packages_are_named_with_the_way_out(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production installs no servers: who forgets the URLs there learns what to do."""

    def nothing(_: str) -> None:
        return None

    monkeypatch.setattr("tidepool.embedded.server.find_spec", nothing)
    with pytest.raises(embedded.EmbeddedServersError, match=r"arq-tidepool\[embedded\]', or set DATABASE_URL"):
        embedded.join(data_dir)


def test_data_logs_and_locks_are_private_and_no_folder_above_is_changed(tmp_path: Path) -> None:
    """Another user could hold a lock that it may open; and a private folder of the user stays private."""
    above = tmp_path / "private"
    above.mkdir(mode=0o700)
    with embedded.join(above / "data"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (above / "data").iterdir()}
    assert 0o700 == above.stat().st_mode & 0o777 == (above / "data").stat().st_mode & 0o777
    assert {"start.lock", "members.lock", "postgres.log", "redis.log"} <= modes.keys()
    assert {0o600, 0o700} == set(modes.values())


@pytest.mark.parametrize("name", ["start.lock", "members.lock", "postgres.log", "redis.lock"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_what_somebody_else_put_there_is_refused(data_dir: Path, name: str, kind: str) -> None:
    """A link would lead root's writes elsewhere, and a pipe would hold the start for ever."""
    data_dir.mkdir()
    (victim := data_dir.parent / "victim").touch(mode=0o644)
    if kind == "link":
        (data_dir / name).symlink_to(victim)
    elif kind == "hard link":
        (data_dir / name).hardlink_to(victim)
    else:
        os.mkfifo(data_dir / name)
    with pytest.raises(embedded.EmbeddedServersError, match=name):
        embedded.join(data_dir)
    assert (0o644, b"") == (victim.stat().st_mode & 0o777, victim.read_bytes())


@pytest.mark.parametrize(("name", "wait"), [("start", "LOCK"), ("members", "STOP")])
def test_a_lock_that_is_held_is_named_while_a_command_waits_and_when_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, wait: str
) -> None:
    """Somebody with the same user holds the file: a warning says which it is, long before the end."""
    home = tmp_path / "data"
    home.mkdir(mode=0o700)
    monkeypatch.setattr("tidepool.embedded.locks._QUIET_WAIT_S", 0.02)
    monkeypatch.setattr(f"tidepool.embedded.membership.{wait}_WAIT_S", 0.1)
    held = PrivateFile(home / f"{name}.lock")
    assert held.try_lock()

    with pytest.raises(embedded.EmbeddedServersError, match=f"has held {home}/{name}.lock for"):
        embedded.join(home)

    held.close()
    assert [f"waiting for the process that holds {home}/{name}.lock: it starts or stops the servers"] == [
        record.getMessage() for record in caplog.records if "waiting" in record.getMessage()
    ]
