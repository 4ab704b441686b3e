"""Environments that are narrower than usual: few file descriptors, no docstrings and asserts, no shared memory."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Service

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
