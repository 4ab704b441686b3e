"""A log that nobody reads: standard error is a pipe that is full from the first moment on."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Service

ROOT = Path(__file__).parents[2]


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """Give the end to write to, of a pipe that has no room; nobody reads it as long as the test runs."""
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * size)
    yield writer
    os.close(reader)
    os.close(writer)


def test_jobs_run_and_the_worker_ends_when_it_is_asked_to(service: Service, full_pipe: int) -> None:
    """Two lines a job go nowhere, and stop neither the jobs nor SIGTERM, nor the end."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "arq", "worker.WorkerSettings"],
        env={**service.environment, "LOG_LEVEL": "DEBUG"},
        cwd=ROOT,
        stderr=full_pipe,
    )
    try:
        report = service.run("producer", "--jobs", "1000", "--follow", "--json").document
        assert (1000, 0) == (report["enqueued"], report["pending"])
        worker.terminate()
        assert 0 == worker.wait(20)
    finally:
        worker.kill()
        worker.wait()


CRASH = """
import sys
from tidepool import logs
logs.configure("INFO")
import structlog
structlog.get_logger("test").info("before")
logs.say("said")
raise ValueError("the end")
"""


def test_what_ends_a_process_does_not_wait_for_a_reader(full_pipe: int) -> None:
    """A traceback finds no room either."""
    assert 1 == subprocess.run([sys.executable, "-c", CRASH], cwd=ROOT, stderr=full_pipe, check=False).returncode


def test_what_ends_a_process_is_its_last_line() -> None:
    """After all that was logged before."""
    ended = subprocess.run([sys.executable, "-c", CRASH], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    first, second, *traceback = ended.stderr.splitlines()
    assert '"event": "before"' in first
    assert "said" == second
    assert "Traceback (most recent call last):" == traceback[0]
    assert "ValueError: the end" == traceback[-1]
