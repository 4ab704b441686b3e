"""Workers of the applications, each in a process of its own, as `adopt` changes a process for good."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidepool.pool.config import PoolConfig

ROOT = Path(__file__).parents[2]
_WAIT_S = 20.0


@pytest.fixture
def run_worker(empty_database: PoolConfig, redis_url: str) -> Iterator[Callable[..., None]]:
    """Give a function that starts `python -m …` on the test's servers; it has to stop without an error at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, **variables: str) -> None:
        environment = {**os.environ, "DATABASE_URL": empty_database.url, "REDIS_URL": redis_url, **variables}
        started.append(subprocess.Popen((sys.executable, "-m", *words), cwd=ROOT, env=environment))

    yield run
    for worker in started:
        worker.send_signal(signal.SIGTERM)
    try:
        assert {0} == {worker.wait(_WAIT_S) for worker in started}
    finally:
        for worker in started:
            worker.kill()
