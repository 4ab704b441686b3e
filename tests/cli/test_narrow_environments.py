"""Environments that are narrower than usual: few file descriptors, no docstrings, shared memory, or user name."""

import asyncio
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from commands import Service, stop
from proxies import tls_postgres, tls_redis

from tidepool.embedded.place import Account, EmbeddedServersError
from tidepool.pool.config import PoolConfig

ROOT = Path(__file__).parents[2]
JOBS = ("producer", "--jobs", "300", "--workers", "1", "--json")


def test_few_file_descriptors_and_no_docstrings_are_enough(service: Service) -> None:
    """For a producer and its worker: `ulimit -n 24`, and PYTHONOPTIMIZE=2, which removes asserts, too."""
    command = f"ulimit -n 24; exec {shlex.join([sys.executable, '-m', *JOBS])}"
    ended = subprocess.run(
        ["bash", "-c", command],
        env={**service.environment, "PYTHONOPTIMIZE": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    assert '"pending": 0' in ended.stdout
    assert 0 == service.run("worker", "why", "--help", PYTHONOPTIMIZE="2").status  # it is made of docstrings


@pytest.mark.parametrize("limit", ["ulimit -n 12", "ulimit -n 5", "ulimit -v 60000"])
@pytest.mark.parametrize("command", ["-m producer results", "-m worker pool", "-m arq worker.WorkerSettings"])
def test_too_narrow_limits_are_one_line(service: Service, limit: str, command: str) -> None:
    """Descriptors for an event loop, memory for the imports: refused before anything begins."""
    ended = subprocess.run(
        ["bash", "-c", f"{limit}; exec {sys.executable} {command}"],
        env=service.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "-v" in limit and "arq" in command:
        return  # arq's own imports come before ours
    assert 2 == ended.returncode
    assert ended.stderr.startswith("error: ")
    assert 1 == ended.stderr.count("\n")


@pytest.fixture
def home() -> Iterator[Path]:
    """Give a directory with a short path."""
    home = Path(tempfile.mkdtemp(prefix="tp-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_embedded_servers_start_with_little_shared_memory(service: Service, home: Path) -> None:
    """A container's /dev/shm may have 64 kB: PostgreSQL's parallel workers would need more."""
    shell = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if (
        os.geteuid()
        or subprocess.run(["unshare", "-m", "bash", "-c", shell], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system can be mounted here")
    environment = {name: value for name, value in service.environment.items() if not name.endswith("_URL")}
    command = f"{shell} && exec {shlex.join([sys.executable, '-m', *JOBS])}"
    ended = subprocess.run(
        ["unshare", "-m", "bash", "-c", command],
        env={**environment, "DATA_DIR": str(home / "data")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr
    assert '"pending": 0' in ended.stdout


NOBODY = Account(12345, 12345)
"""A user of whom the passwd database knows nothing, as containers are given one."""


@pytest.fixture
async def nameless(service: Service, database: PoolConfig, redis_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """Give the commands as such a user, without HOME and USER; the servers are reached by ports."""
    if os.geteuid():
        pytest.skip("only root becomes another user")
    try:
        service.prefix = NOBODY.prefix(Path(sys.executable), ROOT / "x")
    except EmbeddedServersError as error:
        pytest.skip(str(error))
    postgres, redis = urlsplit(database.url), urlsplit(redis_url)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, *NOBODY)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        service.environment.pop(name, None)
    async with AsyncExitStack() as stack:
        path = f"{parse_qs(postgres.query)['host'][0]}/.s.PGSQL.5432"
        ports = [
            await stack.enter_async_context(tls_postgres(path, None)),
            await stack.enter_async_context(tls_redis(redis.path, None)),
        ]
        service.environment |= {
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{ports[0]}{postgres.path}",
            "REDIS_URL": f"redis://127.0.0.1:{ports[1]}/{parse_qs(redis.query)['db'][0]}",
        }
        yield service


def user_of(process: subprocess.Popen[str]) -> int:
    """Return the number of the user whom a process runs as."""
    (words,) = [
        line for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines() if line.startswith("Uid:")
    ]
    return int(words.split()[1])


async def test_a_user_without_a_name_can_run_everything(nameless: Service) -> None:
    """A producer with a worker; a worker and the front start and stop."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = str(probe.getsockname()[1])
    command = [*nameless.prefix, sys.executable, "-m", "producer", "serve", "--host", "127.0.0.1", "--port", port]
    front = subprocess.Popen(
        command, env=nameless.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    nameless.started.append(front)
    assert front.stdout is not None
    words = ("producer", "--jobs", "50", "--workers", "1", "--json")
    worker, ran = await asyncio.gather(
        asyncio.to_thread(nameless.start_worker), asyncio.to_thread(nameless.run, *words)
    )
    assert f"serving on http://127.0.0.1:{port}/\n" == await asyncio.to_thread(front.stdout.readline)
    assert [12345, 12345] == [user_of(process) for process in (front, worker)]
    assert 0 == (await asyncio.to_thread(stop, worker))[0]
    assert (143, "") == await asyncio.to_thread(stop, front)
    assert (0, "", 50) == (ran.status, ran.stderr, ran.document["enqueued"])
    assert 0 == ran.document["pending"] == ran.document["failed"]


@pytest.mark.parametrize("variables", [{}, {"HOME": "/proc/1/root"}, {"HOME": "", "USER": ""}], ids=str)
async def test_a_user_without_a_name_is_refused_in_a_line_if_the_url_has_none(
    nameless: Service, variables: dict[str, str]
) -> None:
    """Whatever HOME says."""
    url = nameless.environment["DATABASE_URL"].replace("postgres@", "")
    ended = await asyncio.to_thread(nameless.run, "producer", "results", DATABASE_URL=url, **variables)
    assert (2, "") == (ended.status, ended.stdout)
    (line,) = ended.stderr.splitlines()
    assert "12345" in line
