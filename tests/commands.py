"""The real commands as subprocesses, for the end-to-end tests."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_TIMEOUT_S = 50.0


@dataclass
class Ended:
    """What a command said."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


@dataclass
class Service:
    """Runs the service's commands in one environment."""

    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    prefix: tuple[str, ...] = ()
    """What goes in front of each command line, such as `setpriv` and its words."""

    def run(self, *words: str, stdin: str | None = None, timeout_s: float = _TIMEOUT_S, **variables: str) -> Ended:
        """Run `python -m …` to its end."""
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", *words],
            input=stdin,
            env={**self.environment, **variables},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start_worker(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start `arq worker.WorkerSettings`, and return it when it says that it has begun."""
        worker = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "arq", "worker.WorkerSettings", *words],
            env={**self.environment, **variables},
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(worker)
        wait_for_line(worker, "worker.started")
        return worker

    @contextmanager
    def producer(self, *words: str) -> Generator[subprocess.Popen[str]]:
        """Run `python -m producer` with a pipe to write to, in a process group that ends with the block."""
        with subprocess.Popen(
            [sys.executable, "-m", "producer", *words],
            env=self.environment,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as producer:
            try:
                yield producer
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(producer.pid, signal.SIGKILL)

    def start_fleet(self, count: int, log_dir: Path, **variables: str) -> list[Path]:
        """Start so many workers at a time, and return their log files; wait for them with `until`."""
        logs = [log_dir / f"worker-{number}.log" for number in range(count)]
        for log in logs:
            with log.open("wb") as output:  # no pipes: nobody would read twenty of them
                command = [sys.executable, "-m", "arq", "worker.WorkerSettings"]
                self.started.append(
                    subprocess.Popen(command, env={**self.environment, **variables}, cwd=_ROOT, stderr=output)
                )
        return logs


def wait_for_line(worker: subprocess.Popen[str], words: str) -> str:
    """Read a process's log until a line has *words*; returns it."""
    assert worker.stderr is not None
    for line in worker.stderr:
        if words in line:
            return line
    raise AssertionError(f"the process ended without saying {words!r}")


def stop(worker: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    """Tell a process to stop; returns its exit status and the rest of its log."""
    worker.send_signal(number)
    _, log = worker.communicate(timeout=_TIMEOUT_S)
    return worker.returncode, log


async def until(condition: Any, timeout_s: float = 30.0) -> Any:
    """Wait until the coroutine function *condition* returns something true; returns that."""
    async with asyncio.timeout(timeout_s):
        while not (answer := await condition()):
            await asyncio.sleep(0.05)
        return answer
